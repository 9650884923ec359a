/**
 * The engine of a pool: the operations on it, and the parts that they are made of.
 *
 * ```text
 *   submit ──▶ Admission ──▶ Slots ──▶ Ending ──▶ recorded, told, reported
 *               backlog       running    finalizers, onFailure
 *               Keys          rate       Unread
 *                  ╲            │           ╱
 *                   Waiting (who waits for whom) · Shutdown · Timers · Books
 * ```
 *
 * Every state changes in one synchronous step, so an interruption falls before or after it, never within.
 */
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scheduler from "effect/Scheduler"
import type { Entry, Registry } from "../../registry/Registry.ts"
import type { Accounting } from "../Accounting.ts"
import type { PoolClosed } from "../PoolError.ts"
import { Admission } from "./Admission.ts"
import { Books } from "./Books.ts"
import { Ending } from "./Ending.ts"
import { full } from "./errors.ts"
import { goOn } from "./goOn.ts"
import { isImmediate } from "./InPlace.ts"
import { notes, taskInfos } from "./Inspect.ts"
import type { Settings } from "./Settings.ts"
import { Shutdown } from "./Shutdown.ts"
import { Slots } from "./Slots.ts"
import type { AnyEffect, AnyExit, Extra } from "./Task.ts"
import { Flag, State, Task, taskOf } from "./Task.ts"
import { Timers } from "./Timers.ts"
import type { AnyFiber } from "./Waiting.ts"
import { Waiting } from "./Waiting.ts"

export class Engine {
  readonly settings: Settings
  readonly registry: Registry
  readonly timers: Timers
  readonly books = new Books()
  readonly admission: Admission
  readonly slots: Slots
  readonly ending: Ending
  readonly waiting: Waiting
  readonly shutdown: Shutdown
  /** The context in which the pool was opened: its log, its clock, its references. */
  readonly context: Context.Context<never>
  readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly scheduler: Scheduler.Scheduler
  private readonly entry: Entry
  private sequence = 0

  constructor(kind: string, settings: Settings, fiber: AnyFiber, clock: Clock.Clock, registry: Registry) {
    this.settings = settings
    this.context = fiber.context
    this.scheduler = fiber.cache.scheduler
    this.dispatcher = this.scheduler.makeDispatcher()
    this.timers = new Timers(clock, fiber.context)
    this.registry = registry
    this.admission = new Admission(this)
    this.slots = new Slots(this)
    this.ending = new Ending(this)
    this.waiting = new Waiting(this)
    this.shutdown = new Shutdown(this)
    this.entry = {
      kind,
      name: settings.name,
      counts: () => Object.entries(this.accounting()),
      tasks: () => taskInfos(this),
      notes: () => notes(this)
    }
    if (settings.owner === undefined) registry.open(this.entry)
    else settings.owner(this.entry)
  }

  get name(): string {
    return this.settings.name
  }

  accounting(): Accounting {
    const { blocked, keys, queued } = this.admission
    return this.books.read(queued, this.slots.running.size, blocked.size + keys.blocked)
  }

  /** Accepts the work and returns its handle. Acceptance and the return are one step. */
  submit(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): AnyEffect {
    if (this.mayRunInPlace(fiber, effect, extra)) {
      return goOn(fiber, this.slots.runInPlace(++this.sequence, effect, fiber.context, Flag.Handle))
    }
    const task = this.make(fiber, effect, extra, Flag.Handle)
    const refusal = this.admission.offer(task)
    if (refusal === undefined) return goOn(fiber, task)
    return refusal === "blocked" ? this.block(fiber, task) : Exit.fail(refusal)
  }

  /** Accepts the work; its end is heard by `onFailure`, or is reported when it is a failure. */
  fork(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): AnyEffect {
    if (this.mayRunInPlace(fiber, effect, extra)) {
      this.slots.runInPlace(++this.sequence, effect, fiber.context, 0)
      return goOn(fiber, undefined)
    }
    const task = this.make(fiber, effect, extra, 0)
    const refusal = this.admission.offer(task)
    if (refusal === undefined) return goOn(fiber, undefined)
    return refusal === "blocked" ? Effect.asVoid(this.block(fiber, task)) : Exit.fail(refusal)
  }

  /** Accepts the work and waits for its end; an interruption cancels it, wherever it is. */
  run(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): AnyEffect {
    if (this.mayRunInPlace(fiber, effect, extra)) {
      const done = this.slots.runInPlace(++this.sequence, effect, fiber.context, Flag.Read)
      return done instanceof Task ? this.awaitTask(done, fiber) : goOn(fiber, done.value)
    }
    return this.offerAndWait(fiber, this.make(fiber, effect, extra, Flag.Read))
  }

  private offerAndWait(fiber: AnyFiber, task: Task): AnyEffect {
    return Effect.callback((resume) => {
      const refusal = this.admission.offer(task)
      const result = task.result
      if (result !== undefined) return resume(result)
      let end: ((instead: AnyEffect | undefined) => void) | undefined
      let refused: PoolClosed | undefined
      if (refusal === "blocked") {
        this.admission.enterBlocked(task)
        this.admission.waitForPlace(task, (closed) => {
          refused = closed
          if (closed !== undefined) end?.(Exit.fail(closed))
        })
      } else if (refusal !== undefined) return resume(Exit.fail(refusal))
      end = this.waiting.observeEnd(fiber, task, resume, () => this.withdraw(task, fiber.id))
      if (refused !== undefined) end(Exit.fail(refused))
      return Effect.suspend(() => {
        end(undefined)
        // Nobody waits for the result any more; should it be a failure after all, it is reported.
        task.unmark(Flag.Read)
        const late = task.result
        if (late !== undefined) this.ending.unheard(task, late)
        return this.cancelAndWait(task, fiber)
      })
    })
  }

  /** Accepts all of them, or under `reject` none. An interruption while it waits for places cancels those it has. */
  submitAll(
    fiber: AnyFiber,
    effects: ReadonlyArray<AnyEffect>,
    extra: () => Extra | undefined
  ): Effect.Effect<ReadonlyArray<Task>, unknown> {
    const tasks = effects.map((effect) => this.make(fiber, effect, extra(), Flag.Handle))
    const first = tasks[0]
    if (first !== undefined && this.settings.onFull === "reject" && this.shutdown.isOpen) {
      const places = Math.max(0, this.admission.placesFor(first))
      if (tasks.length > places) {
        this.books.refused += tasks.length
        return Effect.fail(full(first, this.admission.tighterKeyOf(first), { tasks: tasks.length, places }))
      }
    }
    const accept = (task: Task): AnyEffect => {
      const refusal = this.admission.offer(task)
      if (refusal === undefined) return Exit.void
      return refusal === "blocked" ? this.block(fiber, task) : Exit.fail(refusal)
    }
    return Effect.forEach(tasks, accept, { discard: true }).pipe(
      Effect.as(tasks),
      Effect.onError(() => this.cancelAllAndWait(tasks, fiber))
    )
  }

  /** Cancels all of them, and none starts meanwhile in the place of another. */
  cancelAllAndWait(tasks: ReadonlyArray<Task>, fiber: AnyFiber): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.slots.hold(() => {
        for (const task of tasks) this.withdraw(task, fiber.id)
      })
      return Effect.forEach(tasks, (task) => this.cancelAndWait(task, fiber), { discard: true })
    })
  }

  /** Waits for the end of a task. */
  awaitTask(task: Task, fiber: AnyFiber): AnyEffect {
    const result = task.result
    if (result !== undefined) {
      this.ending.read(task)
      return result
    }
    return Effect.callback((resume) => {
      const end = this.waiting.observeEnd(fiber, task, resume, () => {})
      return Effect.sync(() => end(undefined))
    })
  }

  /** Waits until nothing is queued or runs. */
  awaitIdle(fiber: AnyFiber): Effect.Effect<void> {
    return Effect.callback((resume) => this.waiting.observeIdle(fiber, resume))
  }

  /** Tells a task to stop and waits until it has. That does not count as reading its result. */
  cancelAndWait(task: Task, fiber: AnyFiber): Effect.Effect<void> {
    return Effect.callback((resume) => {
      this.withdraw(task, fiber.id)
      // A task that cancels itself cannot wait for its own end.
      if (task.state !== State.Running || taskOf(fiber) === task) return resume(Effect.void)
      let leave: (() => void) | undefined
      const observer = () => {
        leave?.()
        this.waiting.resumeWaiter(() => resume(Effect.void), Exit.void)
        return false
      }
      leave = this.waiting.note(fiber, { _tag: "Task", task }, (deadlock) => {
        task.unobserve(observer)
        resume(Effect.die(deadlock))
      })
      if (leave === undefined) return
      // The wait may have been a deadlock, and the pool let something go first.
      if (this.hasEnded(task)) {
        leave()
        return resume(Effect.void)
      }
      task.observe(observer)
      return Effect.sync(() => {
        leave?.()
        task.unobserve(observer)
      })
    })
  }

  // A function, since what stands between two looks at the state may have changed it.
  private hasEnded(task: Task): boolean {
    return task.state === State.Settled
  }

  /** Waits for a place: the producer is suspended, and the task is accepted in the step in which it goes on. */
  block(fiber: AnyFiber, task: Task): AnyEffect {
    return Effect.callback((resume) => {
      // Between the first offer and now, other fibers may have run.
      const refusal = this.admission.offer(task)
      if (refusal !== "blocked") return resume(refusal === undefined ? Exit.succeed(task) : Exit.fail(refusal))
      this.admission.enterBlocked(task)
      let leave: (() => void) | undefined
      let answer: AnyExit | undefined
      this.admission.waitForPlace(task, (closed) => {
        answer = closed === undefined ? Exit.succeed(task) : Exit.fail(closed)
        if (leave === undefined) return
        leave()
        this.waiting.resumeNow(resume, answer)
      })
      leave = this.waiting.note(fiber, { _tag: "Admission", task }, (deadlock) => {
        this.withdraw(task, fiber.id)
        resume(Effect.die(deadlock))
      })
      if (leave === undefined) return
      if (answer !== undefined) {
        // The wait would have been a deadlock, so the pool let a task go first, and that or this one has changed everything.
        leave()
        return resume(answer)
      }
      return Effect.sync(() => {
        leave?.()
        this.withdraw(task, fiber.id)
      })
    })
  }

  /** Cancels a task wherever it is, without waiting for it. */
  withdraw(task: Task, by: number): void {
    switch (task.state) {
      case State.New:
      case State.Settled:
        return
      case State.Blocked:
        return this.admission.giveUp(task)
      case State.Running:
        return this.slots.interrupt(task, by)
      case State.Queued:
        this.admission.unqueue(task)
        this.ending.record(task, "interrupted", Exit.interrupt(by))
        this.admission.placeFreed(task.extra?.key)
        return this.slots.pump()
    }
  }

  /** Whether a task could run here and now, since it needs no fiber and has its turn. */
  private mayRunInPlace(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): boolean {
    return (
      isImmediate(effect) &&
      extra === undefined &&
      this.slots.isFree &&
      // What makes the difference between a task's own fiber and its submitter's visible.
      fiber.cache.scheduler === this.scheduler &&
      fiber.cache.runtimeMetrics === undefined
    )
  }

  make(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined, flags: number): Task {
    let context = fiber.context
    // The submitter may run on a scheduler of its own, such as that of `runSync`, which ends with it.
    if (fiber.cache.scheduler !== this.scheduler) context = Context.add(context, Scheduler.Scheduler, this.scheduler)
    const sequence = ++this.sequence
    if (extra === undefined) return new Task(this, sequence, effect, context, flags)
    extra.sequence = sequence
    return new Task(this, extra, effect, context, flags)
  }

  clearTimer(task: Task): void {
    const timer = task.extra?.timer
    if (timer === undefined) return
    this.timers.cancel(timer)
    if (task.extra !== undefined) task.extra.timer = undefined
  }

  /** The pool has closed: leaves the registry and reports the failures that nobody read. */
  leave(report: unknown): void {
    this.timers.close()
    this.ending.unread.reportAll()
    this.registry.close(this.entry, report)
  }

  runInPool(effect: AnyEffect): void {
    Effect.runForkWith(this.context)(effect)
  }
}
