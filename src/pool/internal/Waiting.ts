/**
 * Waiting: for the end of a task or for an idle pool, with a note of who waits for what, so that a circle is found when it
 * closes.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { PoolDeadlock } from "../PoolError.ts"
import type { Wait } from "./Deadlock.ts"
import { findDeadlock } from "./Deadlock.ts"
import type { Engine } from "./Engine.ts"
import { enter, isTooDeep, leave } from "./nesting.ts"
import type { AnyEffect, AnyExit, Task } from "./Task.ts"
import { taskOf } from "./Task.ts"

type AnyFiber = Fiber.Fiber<unknown, unknown>
export type Resume = (effect: AnyEffect) => void

export class Waiting {
  /** What the running tasks wait for whose own fiber waits for a task, a place or an idle pool. */
  readonly waits = new Map<Task, Wait>()
  readonly idleWaiters = new Set<() => void>()
  private readonly engine: Engine

  constructor(engine: Engine) {
    this.engine = engine
  }

  /** The task has ended: it waits for nothing any more. */
  forget(task: Task): void {
    if (this.waits.size > 0) this.waits.delete(task)
  }

  get isIdle(): boolean {
    return (
      this.engine.slots.running.size === 0 && this.engine.admission.queued === 0 && this.engine.ending.handlers === 0
    )
  }

  /** Nothing runs: perhaps the pool is idle, or its shutdown can go on. */
  becameEmpty(): void {
    if (this.idleWaiters.size > 0 && this.isIdle) {
      for (const waiter of [...this.idleWaiters]) {
        this.idleWaiters.delete(waiter)
        waiter()
      }
    }
    if (!this.engine.shutdown.isOpen) this.engine.shutdown.progress()
  }

  /** Resumes the fiber with the task's result. `end` gives up the wait, and resumes with something else where it is given. */
  observeEnd(
    fiber: AnyFiber,
    task: Task,
    resume: Resume
  ): { readonly deadlock: boolean; readonly end: (instead: AnyEffect | undefined) => void } {
    const noted = this.noteWait(fiber, { _tag: "Task", task })
    if (noted instanceof PoolDeadlock) {
      resume(Effect.die(noted))
      return { deadlock: true, end: () => {} }
    }
    const ended = (exit: AnyExit) => {
      noted()
      this.resumeWaiter(resume, exit)
      return true
    }
    if (task.result === undefined) task.observe(ended)
    else {
      // The wait would have been a deadlock, and the pool let the task go first.
      this.engine.ending.read(task)
      ended(task.result)
    }
    return {
      deadlock: false,
      end: (instead) => {
        noted()
        task.unobserve(ended)
        if (instead !== undefined) resume(instead)
      }
    }
  }

  /** A waiter may be a task for which another task waits, and so on: a long chain must not fill the stack. */
  resumeWaiter(resume: Resume, exit: AnyExit): void {
    if (isTooDeep()) {
      this.engine.dispatcher.scheduleTask(() => resume(exit), 0)
    } else {
      enter()
      resume(exit)
      leave()
    }
  }

  /** Notes what the fiber of a task waits for; the returned function ends the note. Other fibers are not noted. */
  noteWait(fiber: AnyFiber, wait: Wait): PoolDeadlock | (() => void) {
    const waiter = taskOf(fiber)
    if (waiter === undefined) return () => {}
    const lenders: Array<Engine> = []
    const { waits } = waiter.engine.waiting
    waits.set(waiter, wait)
    const leave = () => {
      if (waits.get(waiter) === wait) waits.delete(waiter)
      for (let lender = lenders.pop(); lender !== undefined; lender = lenders.pop()) lender.slots.lend(-1)
    }
    while (true) {
      const deadlock = findDeadlock(waiter)
      if (deadlock === undefined) return leave
      if (!deadlock.starved.some((task) => task.engine.waiting.help(task, lenders))) {
        leave()
        return new PoolDeadlock({ pool: waiter.engine.name, task: waiter.name, edges: deadlock.edges })
      }
    }
  }

  /** Lets a task that would never have its turn go on, if the policy of its pool allows that. */
  help(task: Task, lenders: Array<Engine>): boolean {
    const policy = this.engine.settings.onDeadlock
    if (policy === "die") return false
    // A lent slot does not help a task that waits for its key, nor one too heavy for it.
    if (
      policy === "inline" ||
      this.engine.admission.keys.ahead(task) !== undefined ||
      this.engine.slots.bucket !== undefined
    ) {
      this.engine.slots.startOutOfTurn(task)
      return true
    }
    lenders.push(this.engine)
    this.engine.slots.lend(1)
    return true
  }
}
