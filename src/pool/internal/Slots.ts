/**
 * The slots: how many tasks run at a time, and what starts next.
 *
 * A worker is a slot, and supervised work is a fiber: each task runs on a fiber of its own, with its own children, scope and
 * interruption, started as soon as a slot is free. (Long-lived worker fibers were tried: a task can then interrupt its
 * worker, and children that it forked outlive it.)
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { Engine } from "./Engine.ts"
import { closed } from "./errors.ts"
import { Done, evaluate } from "./InPlace.ts"
import { enter, isTooDeep, leave } from "./nesting.ts"
import { Run } from "./Run.ts"
import type { AnyEffect, Extra } from "./Task.ts"
import { CurrentTask, Flag, State, Task, weightOf } from "./Task.ts"
import { TaskList } from "./TaskList.ts"
import { TokenBucket } from "./TokenBucket.ts"

/** How many tasks start in one go before the event loop has a turn. */
const mostStarts = 2048

export class Slots {
  readonly running = new TaskList()
  /** Weight of the running tasks. */
  used = 0
  /** Weight that may run: none while the pool is paused. */
  limit: number
  paused = false
  private stopped = false
  concurrency: number
  /** Slots that waiting tasks have lent. */
  private lent = 0
  /** True while free slots are being filled, so that tasks start and end within one loop. */
  pumping = false
  private pumpScheduled = false
  private pumpIsNext = false
  readonly bucket: TokenBucket | undefined
  /** The record of a task that ran in place and has succeeded. */
  private spare: Task | undefined
  private readonly engine: Engine

  constructor(engine: Engine) {
    const { settings, timers } = engine
    this.engine = engine
    this.concurrency = settings.concurrency
    this.limit = settings.concurrency
    this.bucket =
      settings.rateLimit && new TokenBucket(settings.rateLimit.limit, settings.rateLimit.interval, timers.now())
  }

  resize(concurrency: number): void {
    this.concurrency = concurrency
    this.refreshLimit()
  }

  pause(): void {
    // A shutdown runs what was accepted.
    if (!this.engine.shutdown.isOpen) return
    this.paused = true
    this.refreshLimit()
  }

  resume(): void {
    this.paused = false
    this.refreshLimit()
  }

  /** Starts nothing more: the deadline of the shutdown has passed. */
  stop(): void {
    this.stopped = true
    this.limit = 0
  }

  lend(slots: number): void {
    this.lent += slots
    this.refreshLimit()
  }

  refreshLimit(): void {
    this.limit = this.paused || this.stopped ? 0 : this.concurrency + this.lent
    this.pump()
  }

  /** Whether a waiting task could start, or one in line before it, so that no wait for a slot is in vain. */
  hasSlotFor(task: Task): boolean {
    return this.fits(this.engine.admission.nextInLine() ?? task)
  }

  /** A task heavier than the whole pool runs alone. */
  fits(task: Task): boolean {
    return this.used + weightOf(task) <= this.limit || (this.running.size === 0 && this.limit > 0)
  }

  takeToken(): boolean {
    if (this.bucket === undefined) return true
    const wait = this.bucket.take(this.engine.timers.now())
    if (wait === 0) return true
    if (!this.pumpScheduled) {
      this.pumpScheduled = true
      this.engine.timers.after(wait, () => {
        this.pumpScheduled = false
        this.pump()
      })
    }
    return false
  }

  /** Fills the free slots when what ends in this step has ended: one pump for many ends. */
  pumpSoon(): void {
    if (this.pumping || this.pumpIsNext) return
    this.pumpIsNext = true
    queueMicrotask(this.pumpNext)
  }

  private readonly pumpNext = (): void => {
    this.pumpIsNext = false
    this.pump()
  }

  schedulePump(): void {
    if (this.pumpScheduled) return
    this.pumpScheduled = true
    this.engine.dispatcher.scheduleTask(() => {
      this.pumpScheduled = false
      this.pump()
    }, 0)
  }

  /**
   * Fills the free slots from the backlog, then the free places from those who wait for one, and tells who waits for the pool
   * to be empty. A producer that goes on when the slots are filled finds many places; it would else wait for each.
   */
  pump(): void {
    if (this.pumping) return
    this.pumping = true
    const { admission } = this.engine
    for (let starts = 0; ; starts++) {
      if (starts === mostStarts) {
        this.schedulePump()
        break
      }
      const task = admission.backlog.first()
      if (task !== undefined && admission.isMoreUrgentBlocked(task) && admission.letIn()) continue
      if (task !== undefined && this.fits(task) && this.takeToken()) {
        admission.backlog.remove(task)
        admission.endExpiry(task)
        this.occupy(task)
        admission.keyPlaceFreed(task.extra?.key)
        this.launch(task)
      } else if (!admission.letIn() && (task !== undefined || !this.handToIdle())) break
    }
    this.pumping = false
    this.engine.waiting.recheck()
    this.engine.waiting.resumeLater()
    if (this.running.size === 0) this.engine.waiting.becameEmpty()
  }

  /** Starts nothing that waits before this is done. */
  hold(change: () => void): void {
    if (this.pumping) return change()
    this.pumping = true
    change()
    this.pumping = false
    this.pump()
  }

  /** Without a backlog, a blocked producer hands its task to an idle slot. */
  handToIdle(): boolean {
    const { admission } = this.engine
    const task = admission.firstForSlot()
    if (task === undefined || !this.fits(task) || !this.takeToken()) return false
    const key = task.extra?.key
    admission.leaveBlocked(task)
    this.engine.books.accepted++
    if (key !== undefined) admission.keys.enqueue(key, task)
    this.start(task)
    admission.answer(task, undefined)
    // The next of its key has a claim now.
    admission.placeFreed(key)
    return true
  }

  start(task: Task): void {
    this.occupy(task)
    this.launch(task)
  }

  /** Whether a task without options could start now, and nobody has a claim to the slot before it. */
  get isFree(): boolean {
    const { admission, shutdown } = this.engine
    return (
      this.used < this.limit &&
      admission.backlog.size === 0 &&
      admission.blocked.size === 0 &&
      shutdown.isOpen &&
      this.bucket === undefined &&
      !isTooDeep()
    )
  }

  /**
   * Runs a task that needs no fiber. It is listed and counted as running meanwhile, since its function may look; its record
   * serves for the next one when it has succeeded, of which nothing is left but the value. It has no options, so its weight
   * is 1, and as a mere function it waits for nothing.
   */
  runInPlace(sequence: number, effect: AnyEffect, context: Context.Context<never>, flags: number): Task | Done {
    const { engine } = this
    const task = this.spare ?? new Task(engine, sequence, undefined, undefined, 0)
    this.spare = undefined
    task.reuse(sequence, context, flags | State.Running)
    engine.books.accepted++
    this.running.push(task)
    this.used++
    let value: unknown
    let threw = false
    enter()
    try {
      value = evaluate(effect)
    } catch (defect) {
      threw = true
      value = defect
    } finally {
      leave()
    }
    if (task.has(Flag.Overrunning) || task.state !== State.Running) {
      // Its function has closed the pool, which told it to stop or gave it up.
      engine.ending.scopeClosed(task, threw ? Exit.die(value) : Exit.interrupt())
      return task
    }
    if (threw) {
      // A fiber makes of it what it makes of every defect.
      task.effect = Exit.die(value)
      this.launch(task)
      return task
    }
    this.running.remove(task)
    this.used--
    engine.books.ends.succeeded++
    task.release()
    this.slotLeft()
    this.spare = task
    return new Done(engine, sequence, value)
  }

  /** Nothing is started any more. */
  get isStopped(): boolean {
    return this.stopped
  }

  private occupy(task: Task): void {
    task.state = State.Running
    this.running.push(task)
    this.used += weightOf(task)
  }

  private launch(task: Task): void {
    // A task keeps the context of its submitter until it is released, at its end.
    const run = new Run(task.context as Context.Context<never>, task.effect)
    task.begin(run)
    const context = Context.addUnsafe<never, Scope.Scope, Scope.Scope>(
      Context.addUnsafe<never, never, Task>(run.context, CurrentTask.key, task),
      Scope.Scope.key,
      run
    )
    const extra = task.extra
    if (extra?.timeout !== undefined) this.timeOutAfter(task, extra, extra.timeout)
    const fiber = this.fork(context, run)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) this.engine.ending.bodyEnded(task, run, exit)
    else {
      run.fiber = fiber
      this.followBody(task, run, fiber)
    }
  }

  private fork(context: Context.Context<never>, run: Run): Fiber.Fiber<unknown, unknown> {
    if (isTooDeep()) return Effect.runForkWith(context)(Effect.andThen(Effect.yieldNow, run))
    enter()
    try {
      return Effect.runForkWith(context)(run)
    } finally {
      leave()
    }
  }

  // Closures stand in functions of their own: one that captures a variable costs an allocation for each call of the
  // function around it, also where it is never made.
  followBody(task: Task, run: Run, fiber: Fiber.Fiber<unknown, unknown>): void {
    fiber.addObserver((exit) => this.engine.ending.bodyEnded(task, run, exit))
  }

  timeOutAfter(task: Task, extra: Extra, timeout: number): void {
    extra.timer = this.engine.timers.after(timeout, () => {
      extra.timer = undefined
      // What was told to stop before has not timed out.
      if (!task.has(Flag.Overrunning)) task.mark(Flag.TimedOut)
      this.interrupt(task, undefined)
      // Where it waits and cannot be interrupted, nothing else ends that wait any more.
      if (task.state === State.Running) this.engine.waiting.recheckSoon()
    })
  }

  /** Starts a task before its turn and beyond the number of slots, in the place of the task that waits for it. */
  startOutOfTurn(task: Task): void {
    if (task.state === State.Blocked) {
      this.engine.admission.leaveBlocked(task)
      this.engine.books.accepted++
      this.start(task)
      this.engine.admission.answer(task, undefined)
      this.engine.admission.placeFreed(task.extra?.key)
    } else {
      const key = task.extra?.key
      const waitsForKey = key !== undefined && this.engine.admission.keys.holds(key, task)
      if (waitsForKey) this.engine.admission.keys.remove(key, task)
      else this.engine.admission.backlog.remove(task)
      this.engine.admission.endExpiry(task)
      this.start(task)
      this.engine.admission.placeFreed(key)
    }
    // It may have ended at once, and freed its slot before its place.
    this.pumpSoon()
  }

  interrupt(task: Task, by: number | undefined): void {
    if (task.has(Flag.Overrunning | Flag.Ending)) return
    task.mark(Flag.Overrunning)
    this.engine.books.overrunning++
    // What it waits for may be cancelled in turn, and so on: a long chain must not fill the stack.
    if (isTooDeep()) this.engine.dispatcher.scheduleTask(() => task.fiber?.interruptUnsafe(by), 0)
    else {
      enter()
      try {
        task.fiber?.interruptUnsafe(by)
      } finally {
        leave()
      }
    }
  }

  leaveSlot(task: Task): void {
    this.running.remove(task)
    this.used -= weightOf(task)
    if (task.has(Flag.Overrunning)) this.engine.books.overrunning--
    this.engine.waiting.forget(task)
  }

  /** What is next, now that a slot is free. */
  slotLeft(): void {
    const { admission, waiting } = this.engine
    if (admission.backlog.size > 0 || admission.blocked.size > 0) this.pumpSoon()
    else if (this.running.size === 0) waiting.becameEmpty()
    else waiting.recheck()
  }

  interruptRunning(): void {
    for (const task of [...this.running]) {
      if (task.state !== State.Running || task.has(Flag.Overrunning | Flag.Ending)) continue
      task.mark(Flag.ShutDown)
      this.interrupt(task, undefined)
    }
  }

  abandonRunning(): void {
    for (let task = this.running.head; task !== undefined; task = this.running.head) {
      this.leaveSlot(task)
      this.engine.ending.record(task, "abandoned", Exit.fail(closed(task, "abandoned")))
    }
  }
}
