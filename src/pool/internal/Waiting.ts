/**
 * Waiting: for the end of a task or for an idle pool, with a note of who waits for what, so that a circle is found when it
 * closes.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { PoolDeadlock } from "../PoolError.ts"
import type { Wait } from "./Deadlock.ts"
import { findDeadlock } from "./Deadlock.ts"
import type { Engine } from "./Engine.ts"
import { enter, isTooDeep, leave } from "./nesting.ts"
import type { AnyEffect, AnyExit, Task } from "./Task.ts"
import { taskOf, weightOf } from "./Task.ts"

export type AnyFiber = Fiber.Fiber<unknown, unknown>
export type Resume = (effect: AnyEffect) => void

interface Loan {
  readonly engine: Engine
  readonly slots: number
}

/** A note of what a task waits for. */
interface Note {
  readonly wait: Wait
  /** Ends the wait because it is part of a circle. */
  readonly abort: (deadlock: PoolDeadlock) => void
  /** The pools that have lent slots until the wait is over. */
  readonly loans: Array<Loan>
}

export class Waiting {
  private readonly idleWaiters = new Set<() => void>()
  /** What the running tasks, and `onFailure` of others, wait for whose own fiber waits for a task, a place or an idle pool. */
  private readonly notes = new Map<Task, Note>()
  private recheckIsNext = false
  /** Those who are resumed when the pump has run, and with what: two arrays, since there may be a thousand at a time. */
  private later: Array<Resume> = []
  private laterExits: Array<AnyExit> = []
  private readonly engine: Engine

  constructor(engine: Engine) {
    this.engine = engine
  }

  /** At least as many as wait of the running tasks. */
  get size(): number {
    return this.notes.size
  }

  waitOf(task: Task): Wait | undefined {
    return this.noteOf(task)?.wait
  }

  /** The task has ended: it waits for nothing any more. */
  forget(task: Task): void {
    if (this.notes.size > 0) this.notes.delete(task)
  }

  get isIdle(): boolean {
    return (
      this.engine.slots.running.size === 0 &&
      this.engine.admission.queued === 0 &&
      this.engine.ending.handlers.size === 0
    )
  }

  /** Nothing runs: perhaps the pool is idle, or its shutdown can go on. */
  becameEmpty(): void {
    if (this.idleWaiters.size > 0 && this.isIdle) this.releaseIdle()
    if (!this.engine.shutdown.isOpen) this.engine.shutdown.progress()
  }

  /** Lets those go on who wait for the pool to be idle. */
  releaseIdle(): void {
    for (const waiter of [...this.idleWaiters]) {
      this.idleWaiters.delete(waiter)
      waiter()
    }
  }

  /** Resumes the fiber when the pool is idle. */
  observeIdle(fiber: AnyFiber, resume: (effect: Effect.Effect<void>) => void): Effect.Effect<void> | void {
    if (this.isIdle || this.engine.shutdown.isClosed) return resume(Effect.void)
    let leave: (() => void) | undefined
    const waiter = () => {
      leave?.()
      resume(Effect.void)
    }
    leave = this.note(fiber, { _tag: "Idle", engine: this.engine, operation: "awaitIdle" }, (deadlock) => {
      this.idleWaiters.delete(waiter)
      resume(Effect.die(deadlock))
    })
    if (leave === undefined) return
    // The wait would have been a deadlock, so a pool let a task go first, which may have been the last.
    if (this.isIdle) return waiter()
    this.idleWaiters.add(waiter)
    return Effect.sync(() => {
      leave?.()
      this.idleWaiters.delete(waiter)
    })
  }

  /**
   * Resumes the fiber with the task's result, or kills it when that is a deadlock, after `withdraw`. The returned function
   * gives up the wait, and resumes with something else where that is given.
   */
  observeEnd(
    fiber: AnyFiber,
    task: Task,
    resume: Resume,
    withdraw: () => void
  ): (instead: AnyEffect | undefined) => void {
    let over = false
    const ended = (exit: AnyExit) => {
      leave?.()
      if (Exit.isSuccess(exit) || !isTooDeep()) {
        this.resumeWaiter(resume, exit)
        return true
      }
      // Resumed when the stack has unwound. Until then nobody has seen the failure, and the waiter may yet be interrupted.
      this.engine.dispatcher.scheduleTask(() => {
        if (over) return
        this.engine.ending.read(task)
        resume(exit)
      }, 0)
      return false
    }
    const leave = this.note(fiber, { _tag: "Task", task }, (deadlock) => {
      task.unobserve(ended)
      withdraw()
      resume(Effect.die(deadlock))
    })
    if (leave === undefined) return () => {}
    const result = task.result
    if (result === undefined) task.observe(ended)
    else {
      // It has ended meanwhile, perhaps because the wait would have been a deadlock and the pool let it go first.
      this.engine.ending.read(task)
      ended(result)
    }
    return (instead) => {
      over = true
      leave()
      task.unobserve(ended)
      if (instead !== undefined) resume(instead)
    }
  }

  /**
   * Resumes those whose tasks ended while slots were being filled. A producer that awaits its handles one after the other
   * would else be suspended and resumed once for every task of a full backlog; so it finds most of them settled. A failure
   * is not put off: until its waiter has seen it, nobody has.
   */
  resumeLater(): void {
    if (this.later.length === 0) return
    const { later, laterExits } = this
    this.later = []
    this.laterExits = []
    later.forEach((resume, i) => this.resumeWaiter(resume, laterExits[i] ?? Exit.void))
  }

  /** A waiter may be a task for which another task waits, and so on: a long chain must not fill the stack. */
  resumeWaiter(resume: Resume, exit: AnyExit): void {
    if (this.engine.slots.pumping && Exit.isSuccess(exit)) {
      this.later.push(resume)
      this.laterExits.push(exit)
    } else this.resumeNow(resume, exit)
  }

  /** At once, unless the stack is deep already. */
  resumeNow(resume: Resume, exit: AnyExit): void {
    if (isTooDeep()) this.engine.dispatcher.scheduleTask(() => resume(exit), 0)
    else {
      enter()
      try {
        resume(exit)
      } finally {
        leave()
      }
    }
  }

  /**
   * Notes what the fiber of a task waits for; the returned function ends the note. When that closes a circle out of which
   * there is no way, `abort` is called, at once or when something else than a wait has closed it, and at once the answer is
   * `undefined`. Other fibers are not noted.
   */
  note(fiber: AnyFiber, wait: Wait, abort: Note["abort"]): (() => void) | undefined {
    const waiter = taskOf(fiber)
    if (waiter === undefined) return () => {}
    const { notes } = waiter.engine.waiting
    const note: Note = { wait, abort, loans: [] }
    const leave = () => waiter.engine.waiting.endNote(waiter, note)
    notes.set(waiter, note)
    const deadlock = resolve([waiter])
    if (deadlock === undefined) return leave
    leave()
    abort(deadlock.error)
    return undefined
  }

  /**
   * The pool could start nothing more. Perhaps all that runs waits in a circle that something else than a wait has closed: a
   * task that ended, a pool that went on after a pause or has fewer slots now. One look for all that happens in this step.
   */
  recheck(): void {
    if (this.notes.size > 0 && this.notes.size >= this.engine.slots.running.size) this.recheckSoon()
  }

  /** The same where others still run, since a circle of keys needs no slot. */
  recheckSoon(): void {
    if (this.recheckIsNext || this.notes.size === 0) return
    this.recheckIsNext = true
    queueMicrotask(this.recheckNow)
  }

  private readonly recheckNow = (): void => {
    this.recheckIsNext = false
    // There may be several circles; whoever is out of one waits no more.
    for (;;) {
      const deadlock = resolve([...this.notes.keys()])
      if (deadlock === undefined) return
      this.endNote(deadlock.waiter, deadlock.note)
      deadlock.note.abort(deadlock.error)
    }
  }

  private endNote(waiter: Task, note: Note): void {
    if (this.notes.get(waiter) === note) this.notes.delete(waiter)
    for (let loan = note.loans.pop(); loan !== undefined; loan = note.loans.pop()) loan.engine.slots.lend(-loan.slots)
  }

  noteOf(task: Task): Note | undefined {
    return this.notes.get(task)
  }

  /** Lets a task that would never have its turn go on, if the policy of its pool allows that. */
  help(task: Task, loans: Array<Loan>): boolean {
    const policy = this.engine.settings.onDeadlock
    if (policy === "die") return false
    // A lent slot does not help a task that waits for its key.
    if (
      policy === "inline" ||
      this.engine.admission.keys.isHeldByOther(task) ||
      this.engine.slots.bucket !== undefined
    ) {
      this.engine.slots.startOutOfTurn(task)
      return true
    }
    const { slots } = this.engine
    const missing = Math.max(1, slots.used + weightOf(task) - slots.limit)
    loans.push({ engine: this.engine, slots: missing })
    slots.lend(missing)
    return true
  }
}

/** Looks whether one of these waits in a circle, and lets tasks go on where their pools allow it, until none does. */
const resolve = (
  waiters: ReadonlyArray<Task>
): { readonly waiter: Task; readonly note: Note; readonly error: PoolDeadlock } | undefined => {
  while (true) {
    const deadlock = findDeadlock(waiters)
    const waiter = deadlock?.waiter
    const note = waiter?.engine.waiting.noteOf(waiter)
    if (deadlock === undefined || waiter === undefined || note === undefined) return undefined
    if (!deadlock.starved.some((task) => task.engine.waiting.help(task, note.loans))) {
      const error = new PoolDeadlock({ pool: waiter.engine.name, task: waiter.name, edges: deadlock.edges })
      return { waiter, note, error }
    }
  }
}
