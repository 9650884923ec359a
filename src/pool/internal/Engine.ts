/**
 * The engine of a pool: admission, the backlog, the slots and the settling of every task.
 *
 * A worker is a slot, and supervised work is a fiber: each task runs on a fiber of its own, with its own children, scope and
 * interruption, started as soon as a slot is free. (Long-lived worker fibers were tried: a task can then interrupt its
 * worker, and children that it forked outlive it.) When nothing waits, a task starts inside the `submit` that brings it.
 *
 * Every state changes in one synchronous step, so an interruption falls before or after it, never within.
 */
import * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as Scope from "effect/Scope"
import type { Entry, Registry } from "../../registry/Registry.ts"
import type { Accounting, Outcome } from "../Accounting.ts"
import { KeyStopped, PoolClosed, PoolDeadlock, PoolFull, TaskDropped, TaskExpired, TaskTimedOut } from "../PoolError.ts"
import { taskInfos } from "./Inspect.ts"
import { Keys } from "./Keys.ts"
import { Levels } from "./Levels.ts"
import type { Settings } from "./Settings.ts"
import { Shutdown } from "./Shutdown.ts"
import type { AnyEffect, AnyExit, Extra } from "./Task.ts"
import { CurrentTask, entry, Flag, priorityOf, State, Task, taskOf, weightOf } from "./Task.ts"
import { TaskList } from "./TaskList.ts"
import { Timers } from "./Timers.ts"
import { TokenBucket } from "./TokenBucket.ts"
import { report, Unread } from "./Unread.ts"
import type { Wait } from "./Waits.ts"
import { findDeadlock } from "./Waits.ts"

type AnyFiber = Fiber.Fiber<unknown, unknown>
type Resume = (effect: AnyEffect) => void

/** How many tasks may start, or resume a waiter, inside each other before the next waits for the stack to unwind. */
const deepest = 16
/** How many tasks start in one go before the event loop has a turn. */
const mostStarts = 2048

/** Starts and resumed waiters that are on the stack now, of all pools. */
let depth = 0

export class Engine {
  readonly settings: Settings
  readonly kind: string
  readonly registry: Registry
  readonly timers: Timers
  readonly keys = new Keys()
  readonly running = new TaskList()
  /** What the running tasks wait for whose own fiber waits for a task, a place or an idle pool. */
  readonly waits = new Map<Task, Wait>()
  paused = false
  /** Handlers of `onFailure` that run outside of a slot, because their task never had one. */
  handlers = 0
  readonly shutdown: Shutdown

  private readonly backlog = new Levels()
  private readonly blocked = new Levels()
  private readonly unread = new Unread()
  private readonly context: Context.Context<never>
  private readonly scheduler: Scheduler.Scheduler
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly bucket: TokenBucket | undefined
  private readonly idleWaiters = new Set<() => void>()
  private readonly entry: Entry
  private concurrency: number
  /** Weight of the running tasks. */
  private used = 0
  /** Slots that waiting tasks have lent. */
  private lent = 0
  private limit: number
  private pumping = false
  private pumpScheduled = false
  private sequence = 0
  private accepted = 0
  private overrunning = 0
  private refused = 0
  private lateEnds = 0
  private readonly ends: Record<Outcome, number> = {
    succeeded: 0,
    failed: 0,
    defected: 0,
    interrupted: 0,
    timedOut: 0,
    expired: 0,
    dropped: 0,
    abandoned: 0
  }

  constructor(kind: string, settings: Settings, fiber: AnyFiber, clock: Clock.Clock, registry: Registry) {
    this.kind = kind
    this.settings = settings
    this.context = fiber.context
    this.scheduler = fiber.cache.scheduler
    this.dispatcher = this.scheduler.makeDispatcher()
    this.timers = new Timers(clock, fiber.context)
    this.registry = registry
    this.concurrency = settings.concurrency
    this.limit = settings.concurrency
    this.bucket =
      settings.rateLimit && new TokenBucket(settings.rateLimit.limit, settings.rateLimit.interval, this.timers.now())
    this.shutdown = new Shutdown(this)
    this.entry = {
      kind,
      name: settings.name,
      counts: () => Object.entries(this.accounting()),
      tasks: () => taskInfos(this)
    }
    registry.open(this.entry)
  }

  get name(): string {
    return this.settings.name
  }

  get queued(): number {
    return this.backlog.size + this.keys.waiting
  }

  *queuedTasks(): Generator<Task> {
    yield* this.backlog
    yield* this.keys.tasks()
  }

  *blockedTasks(): Generator<Task> {
    yield* this.blocked
    yield* this.keys.blockedTasks()
  }

  accounting(): Accounting {
    return {
      accepted: this.accepted,
      queued: this.queued,
      running: this.running.size,
      ...this.ends,
      overrunning: this.overrunning,
      blocked: this.blocked.size + this.keys.blocked,
      refused: this.refused,
      lateEnds: this.lateEnds
    }
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // The verbs
  // ---------------------------------------------------------------------------------------------------------------------

  /** Accepts the work and returns its handle. Acceptance and the return are one step. */
  submit(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): AnyEffect {
    const task = this.make(fiber, effect, extra, Flag.Handle)
    const refusal = this.offer(task)
    if (refusal === undefined) return Exit.succeed(task)
    return refusal === "blocked" ? this.block(fiber, task) : Exit.fail(refusal)
  }

  /** Accepts the work; its end is heard by `onFailure`, or is reported when it is a failure. */
  fork(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): AnyEffect {
    const task = this.make(fiber, effect, extra, 0)
    const refusal = this.offer(task)
    if (refusal === undefined) return Exit.void
    return refusal === "blocked" ? Effect.asVoid(this.block(fiber, task)) : Exit.fail(refusal)
  }

  /** Accepts the work and waits for its end; an interruption cancels it, wherever it is. */
  run(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined): AnyEffect {
    return Effect.callback((resume) => {
      const task = this.make(fiber, effect, extra, Flag.Read)
      const refusal = this.offer(task)
      if (task.result !== undefined) return resume(task.result)
      if (refusal === "blocked") {
        this.enterBlocked(task)
        task.admitted = (closed) => closed !== undefined && wait.end(Exit.fail(closed))
      } else if (refusal !== undefined) return resume(Exit.fail(refusal))
      const wait = this.observeEnd(fiber, task, resume)
      if (wait.deadlock) this.withdraw(task, fiber.id)
      return Effect.suspend(() => {
        wait.end(undefined)
        // Nobody waits for the result any more; should it be a failure after all, it is reported.
        task.flags &= ~Flag.Read
        return this.cancelAndWait(task, fiber.id)
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
      const places = this.settings.capacity - this.queued + Math.max(0, this.limit - this.used)
      if (tasks.length > places) {
        this.refused += tasks.length
        return Effect.fail(this.full(first, undefined))
      }
    }
    const accept = (task: Task): AnyEffect => {
      const refusal = this.offer(task)
      if (refusal === undefined) return Exit.void
      return refusal === "blocked" ? this.block(fiber, task) : Exit.fail(refusal)
    }
    return Effect.forEach(tasks, accept, { discard: true }).pipe(
      Effect.as(tasks),
      Effect.onError(() => Effect.forEach(tasks, (task) => this.cancelAndWait(task, fiber.id), { discard: true }))
    )
  }

  /** Waits for the end of a task. */
  awaitTask(task: Task, fiber: AnyFiber): AnyEffect {
    if (task.result !== undefined) {
      this.read(task)
      return task.result
    }
    return Effect.callback((resume) => {
      const wait = this.observeEnd(fiber, task, resume)
      return Effect.sync(() => wait.end(undefined))
    })
  }

  /** Waits until nothing is queued or runs. */
  awaitIdle(fiber: AnyFiber): AnyEffect {
    return Effect.callback((resume) => {
      if (this.isIdle) return resume(Effect.void)
      const noted = this.noteWait(fiber, { _tag: "Idle", engine: this, operation: "awaitIdle" })
      if (noted instanceof PoolDeadlock) return resume(Effect.die(noted))
      const waiter = () => {
        noted()
        resume(Effect.void)
      }
      this.idleWaiters.add(waiter)
      return Effect.sync(() => {
        noted()
        this.idleWaiters.delete(waiter)
      })
    })
  }

  /** Tells a task to stop and waits until it has. That does not count as reading its result. */
  cancelAndWait(task: Task, by: number): Effect.Effect<void> {
    return Effect.callback((resume) => {
      this.withdraw(task, by)
      if (task.state !== State.Running) return resume(Effect.void)
      const observer = () => {
        resume(Effect.void)
        return false
      }
      task.observe(observer)
      return Effect.sync(() => task.unobserve(observer))
    })
  }

  resize(concurrency: number): void {
    this.concurrency = concurrency
    this.refreshLimit()
  }

  pause(): void {
    this.paused = true
    this.refreshLimit()
  }

  resume(): void {
    this.paused = false
    this.refreshLimit()
  }

  resumeKey(name: string): void {
    const next = this.keys.resume(name)
    if (next !== undefined) this.backlog.push(next)
    this.pump()
  }

  /** Somebody saw the result of this task. */
  read(task: Task): void {
    if (task.has(Flag.Read)) return
    task.flags |= Flag.Read
    if (task.result !== undefined && Exit.isFailure(task.result)) this.unread.read(task)
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // Admission
  // ---------------------------------------------------------------------------------------------------------------------

  private make(fiber: AnyFiber, effect: AnyEffect, extra: Extra | undefined, flags: number): Task {
    let context = fiber.context
    // The submitter may run on a scheduler of its own, such as that of `runSync`, which ends with it.
    if (fiber.cache.scheduler !== this.scheduler) context = Context.add(context, Scheduler.Scheduler, this.scheduler)
    const task = new Task(this, ++this.sequence, effect, context, extra)
    task.flags = flags
    return task
  }

  /** Accepts the task if the pool can: starts it, queues it or drops it by policy. Otherwise says why not. */
  private offer(task: Task): undefined | "blocked" | PoolFull | PoolClosed {
    if (!this.shutdown.isOpen) {
      this.refused++
      return this.closed(task, "refused")
    }
    const key = task.extra?.key
    if (key !== undefined && this.keys.isStopped(key)) {
      this.accepted++
      this.record(task, "dropped", Exit.fail(this.keyStopped(task, key)))
      return undefined
    }
    const direct = this.backlog.size === 0 && this.fits(task) && !this.othersWaitForSlot()
    if (direct && (key === undefined || this.keys.isIdle(key))) {
      if (depth >= deepest) {
        this.accepted++
        this.enqueue(task)
        this.schedulePump()
        return undefined
      }
      if (this.takeToken()) {
        this.accepted++
        if (key !== undefined) this.keys.enqueue(key, task)
        this.start(task)
        return undefined
      }
    }
    if (this.hasPlace(task)) {
      this.accepted++
      this.enqueue(task)
      return undefined
    }
    return this.overflow(task)
  }

  /** Whether a blocked producer has a claim to the next slot; one that waits for its key has none. */
  private othersWaitForSlot(): boolean {
    if (this.blocked.size === 0) return false
    for (const { extra } of this.blocked) if (extra?.key === undefined || this.keys.isIdle(extra.key)) return true
    return false
  }

  private overflow(task: Task): undefined | "blocked" | PoolFull {
    const policy = this.settings.onFull
    switch (policy) {
      case "suspend":
        return "blocked"
      case "reject":
        this.refused++
        return this.full(task, this.isKeyFull(task) ? task.extra?.key : undefined)
      case "dropNewest":
        this.accepted++
        this.record(task, "dropped", Exit.fail(new TaskDropped({ pool: this.name, task: task.name, policy })))
        return undefined
      case "dropOldest": {
        this.accepted++
        const victim = this.victimFor(task)
        if (victim !== task) {
          this.unqueue(victim)
          this.enqueue(task)
        }
        this.record(victim, "dropped", Exit.fail(new TaskDropped({ pool: this.name, task: victim.name, policy })))
        return undefined
      }
    }
  }

  /**
   * The oldest task of the lowest priority; the new one itself where nothing queued is of as low a priority. With keys in
   * use it takes a look at every queued task, since keys take turns and the first in line need not be the oldest.
   */
  private victimFor(task: Task): Task {
    const key = task.extra?.key
    const within = key !== undefined && this.isKeyFull(task) ? key : undefined
    let victim: Task | undefined
    if (within === undefined && this.keys.isEmpty) victim = this.backlog.lowest()
    else {
      for (const other of this.queuedTasks()) {
        if (within !== undefined && other.extra?.key !== within) continue
        if (victim === undefined || isLower(other, victim)) victim = other
      }
    }
    return victim === undefined || priorityOf(victim) > priorityOf(task) ? task : victim
  }

  private isKeyFull(task: Task): boolean {
    const key = task.extra?.key
    return key !== undefined && this.keys.queued(key) >= this.settings.capacityPerKey
  }

  private hasPlace(task: Task): boolean {
    return this.queued < this.settings.capacity && !this.isKeyFull(task)
  }

  private enqueue(task: Task): void {
    task.state = State.Queued
    const extra = task.extra
    if (extra === undefined) {
      this.backlog.push(task)
      return
    }
    if (extra.key === undefined || this.keys.enqueue(extra.key, task)) this.backlog.push(task)
    if (extra.expiresIn !== undefined) this.expireAfter(task, extra, extra.expiresIn)
  }

  private expireAfter(task: Task, extra: Extra, expiresIn: number): void {
    extra.timer = this.timers.after(expiresIn, () => {
      extra.timer = undefined
      this.unqueue(task)
      this.record(task, "expired", Exit.fail(new TaskExpired({ pool: this.name, task: task.name, expiresIn })))
      this.placeFreed(extra.key)
      this.pump()
    })
  }

  /** Takes a queued task out without running it. Its outcome and its place are the caller's next step. */
  private unqueue(task: Task): void {
    const key = task.extra?.key
    this.clearTimer(task)
    if (key === undefined) this.backlog.remove(task)
    else if (this.keys.holds(key, task)) this.keys.remove(key, task)
    else {
      this.backlog.remove(task)
      this.handOver(key, task)
    }
  }

  /** Waits for a place: the producer is suspended, and the task is accepted in the step in which it goes on. */
  private block(fiber: AnyFiber, task: Task): AnyEffect {
    return Effect.callback((resume) => {
      // Between the first offer and now, other fibers may have run.
      const refusal = this.offer(task)
      if (refusal !== "blocked") return resume(refusal === undefined ? Exit.succeed(task) : Exit.fail(refusal))
      this.enterBlocked(task)
      const noted = this.noteWait(fiber, { _tag: "Admission", task })
      if (noted instanceof PoolDeadlock) {
        this.withdraw(task, fiber.id)
        return resume(Effect.die(noted))
      }
      if (task.state !== State.Blocked) {
        noted()
        return resume(Exit.succeed(task))
      }
      task.admitted = (closed) => {
        noted()
        resume(closed === undefined ? Exit.succeed(task) : Exit.fail(closed))
      }
      return Effect.sync(() => {
        noted()
        this.withdraw(task, fiber.id)
      })
    })
  }

  private enterBlocked(task: Task): void {
    task.state = State.Blocked
    const key = task.extra?.key
    if (key !== undefined && this.isKeyFull(task)) {
      task.flags |= Flag.BlockedByKey
      this.keys.block(key, task)
    } else this.blocked.push(task)
  }

  private leaveBlocked(task: Task): void {
    task.state = State.New
    const key = task.extra?.key
    if (key !== undefined && task.has(Flag.BlockedByKey)) {
      task.flags &= ~Flag.BlockedByKey
      this.keys.unblock(key, task)
    } else this.blocked.remove(task)
  }

  /** Tells the producer of a blocked task that it was accepted, or why not. */
  private answer(task: Task, refusal: PoolClosed | undefined): void {
    const admitted = task.admitted
    task.admitted = undefined
    admitted?.(refusal)
  }

  /** A place is free: blocked producers have a claim to it, by priority and then in order. */
  private placeFreed(key: string | undefined): void {
    if (key !== undefined && this.keys.blocked > 0) {
      const first = this.keys.firstBlocked(key)
      if (first !== undefined && !this.isKeyFull(first)) {
        this.leaveBlocked(first)
        this.enterBlocked(first)
      }
    }
    while (this.blocked.size > 0 && this.queued < this.settings.capacity) {
      const task = this.blocked.first()
      if (task === undefined) return
      this.leaveBlocked(task)
      if (this.isKeyFull(task)) {
        this.enterBlocked(task)
        continue
      }
      this.accepted++
      this.enqueue(task)
      this.answer(task, undefined)
    }
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // Slots
  // ---------------------------------------------------------------------------------------------------------------------

  /** Whether the next in line could start, so that no wait for a slot is in vain. */
  hasFreeSlot(): boolean {
    const first = this.backlog.first()
    return first === undefined ? this.used < this.limit : this.fits(first)
  }

  /** A task heavier than the whole pool runs alone. */
  private fits(task: Task): boolean {
    return this.used + weightOf(task) <= this.limit || (this.running.size === 0 && this.limit > 0)
  }

  private takeToken(): boolean {
    if (this.bucket === undefined) return true
    const wait = this.bucket.take(this.timers.now())
    if (wait === 0) return true
    if (!this.pumpScheduled) {
      this.pumpScheduled = true
      this.timers.after(wait, () => {
        this.pumpScheduled = false
        this.pump()
      })
    }
    return false
  }

  private refreshLimit(): void {
    this.limit = this.paused ? 0 : this.concurrency + this.lent
    this.pump()
  }

  private schedulePump(): void {
    if (this.pumpScheduled) return
    this.pumpScheduled = true
    this.dispatcher.scheduleTask(() => {
      this.pumpScheduled = false
      this.pump()
    }, 0)
  }

  /** Fills the free slots from the backlog, and tells who waits for the pool to be empty. */
  pump(): void {
    if (this.pumping) return
    this.pumping = true
    for (let starts = 0; ; starts++) {
      if (starts === mostStarts) {
        this.schedulePump()
        break
      }
      const task = this.backlog.first()
      if (task === undefined) {
        if (this.blocked.size === 0 || !this.handToIdle()) break
      } else {
        if (!this.fits(task) || !this.takeToken()) break
        this.backlog.remove(task)
        this.clearTimer(task)
        this.start(task)
        this.placeFreed(task.extra?.key)
      }
    }
    this.pumping = false
    if (this.running.size === 0) this.becameEmpty()
  }

  /** Without a backlog, a blocked producer hands its task to an idle slot. */
  private handToIdle(): boolean {
    for (const task of this.blocked) {
      if (!this.fits(task)) return false
      const key = task.extra?.key
      if (key !== undefined && !this.keys.isIdle(key)) continue
      if (!this.takeToken()) return false
      this.leaveBlocked(task)
      this.accepted++
      if (key !== undefined) this.keys.enqueue(key, task)
      this.start(task)
      this.answer(task, undefined)
      return true
    }
    return false
  }

  private start(task: Task): void {
    task.state = State.Running
    this.running.push(task)
    this.used += weightOf(task)
    const scope = Scope.makeUnsafe()
    // A task keeps the context of its submitter until it is released, at its end.
    const submitter = task.context as Context.Context<never>
    const context = Context.add(Context.add(submitter, Scope.Scope, scope), CurrentTask, task)
    const extra = task.extra
    if (extra?.timeout !== undefined) this.timeOutAfter(task, extra, extra.timeout)
    depth++
    const fiber = Effect.runForkWith(context)(entry)
    depth--
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) this.bodyEnded(task, scope, exit)
    else {
      task.fiber = fiber
      this.followBody(task, scope, fiber)
    }
  }

  // Closures stand in functions of their own: one that captures a variable costs an allocation for each call of the
  // function around it, also where it is never made.
  private followBody(task: Task, scope: Scope.Closeable, fiber: AnyFiber): void {
    fiber.addObserver((exit) => this.bodyEnded(task, scope, exit))
  }

  private timeOutAfter(task: Task, extra: Extra, timeout: number): void {
    extra.timer = this.timers.after(timeout, () => {
      extra.timer = undefined
      task.flags |= Flag.TimedOut
      this.interrupt(task, undefined)
    })
  }

  /** Starts a task before its turn and beyond the number of slots, in the place of the task that waits for it. */
  private startOutOfTurn(task: Task): void {
    if (task.state === State.Blocked) {
      this.leaveBlocked(task)
      this.accepted++
      this.start(task)
      this.answer(task, undefined)
    } else {
      const key = task.extra?.key
      const waitsForKey = key !== undefined && this.keys.holds(key, task)
      if (waitsForKey) this.keys.remove(key, task)
      else this.backlog.remove(task)
      this.clearTimer(task)
      this.start(task)
      this.placeFreed(key)
    }
  }

  private interrupt(task: Task, by: number | undefined): void {
    if (task.has(Flag.Overrunning | Flag.Ending)) return
    task.flags |= Flag.Overrunning
    this.overrunning++
    task.fiber?.interruptUnsafe(by)
  }

  /** Cancels a task wherever it is, without waiting for it. */
  private withdraw(task: Task, by: number): void {
    switch (task.state) {
      case State.New:
      case State.Settled:
        return
      case State.Blocked:
        this.leaveBlocked(task)
        if (this.blocked.size > 0) this.pump()
        return
      case State.Running:
        return this.interrupt(task, by)
      case State.Queued:
        this.unqueue(task)
        this.record(task, "interrupted", Exit.interrupt(by))
        this.placeFreed(task.extra?.key)
        return this.pump()
    }
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // The end of a task
  // ---------------------------------------------------------------------------------------------------------------------

  /** The task's effect has ended. Its finalizers and its `onFailure` still run in its slot. */
  private bodyEnded(task: Task, scope: Scope.Closeable, exit: AnyExit): void {
    this.clearTimer(task)
    if (scope.state._tag === "Empty") return this.scopeClosed(task, exit)
    this.closeScope(task, scope, exit)
  }

  private closeScope(task: Task, scope: Scope.Closeable, exit: AnyExit): void {
    this.lastWord(task, Scope.close(scope, exit), (closing) =>
      this.scopeClosed(task, Exit.isSuccess(closing) ? exit : join(exit, closing))
    )
  }

  private scopeClosed(task: Task, bodyExit: AnyExit): void {
    const outcome = outcomeOf(task, bodyExit)
    const exit = this.translate(task, outcome, bodyExit)
    const onFailure = task.extra?.onFailure
    if (onFailure === undefined || Exit.isSuccess(exit) || task.state === State.Settled) this.ended(task, outcome, exit)
    else this.tellFailure(task, outcome, exit, handle(onFailure, exit.cause))
  }

  private tellFailure(task: Task, outcome: Outcome, exit: AnyExit, handler: AnyEffect): void {
    this.lastWord(task, handler, (handling) => {
      if (Exit.isFailure(handling)) this.report(task, handling.cause)
      this.ended(task, outcome, exit)
    })
  }

  /** Runs something on behalf of a task that must not be interrupted; a fiber of its own follows the task's. */
  private lastWord(task: Task, effect: AnyEffect, then: (exit: AnyExit) => void): void {
    task.flags |= Flag.Ending
    const fiber = Effect.runForkWith(task.context ?? this.context)(effect, { uninterruptible: true })
    task.fiber = fiber
    fiber.addObserver(then)
  }

  /** What the task's exit means to those who wait for it: the pool's own interruptions have names. */
  private translate(task: Task, outcome: Outcome, exit: AnyExit): AnyExit {
    if (outcome === "timedOut") {
      const timeout = task.extra?.timeout ?? 0
      const timedOut = Cause.fail(new TaskTimedOut({ pool: this.name, task: task.name, timeout }))
      return Exit.failCause(Exit.isFailure(exit) ? Cause.combine(timedOut, onlyDefects(exit.cause)) : timedOut)
    }
    return outcome === "interrupted" && task.has(Flag.ShutDown) ? Exit.fail(this.closed(task, "interrupted")) : exit
  }

  private ended(task: Task, outcome: Outcome, exit: AnyExit): void {
    if (task.state === State.Settled) {
      // It was abandoned: its outcome is recorded, and the pool it belonged to has closed.
      this.lateEnds++
      this.shutdown.lateEnd(task, outcome)
      return task.release()
    }
    this.leaveSlot(task)
    this.record(task, outcome, exit)
    const key = task.extra?.key
    if (key !== undefined) this.keyEnded(key, task, outcome)
    if (this.backlog.size > 0 || this.blocked.size > 0) this.pump()
    else if (this.running.size === 0) this.becameEmpty()
  }

  private leaveSlot(task: Task): void {
    this.running.remove(task)
    this.used -= weightOf(task)
    if (task.has(Flag.Overrunning)) this.overrunning--
    this.waits.delete(task)
  }

  /** Records the one outcome of an accepted task, and tells those who wait for it. */
  private record(task: Task, outcome: Outcome, exit: AnyExit): void {
    this.ends[outcome]++
    const context = task.context ?? this.context
    const neverRan = task.state !== State.Running
    if (task.settle(exit)) task.flags |= Flag.Read
    if (outcome !== "abandoned") task.release()
    if (Exit.isSuccess(exit)) return
    const onFailure = task.extra?.onFailure
    if (onFailure !== undefined) {
      if (neverRan || outcome === "abandoned") this.handleOutside(task, context, handle(onFailure, exit.cause))
    } else if (!task.has(Flag.Read) && isNews(exit.cause)) {
      if (task.has(Flag.Handle)) this.unread.add(task, exit.cause, context)
      else report({ pool: this.name, task: task.name, cause: exit.cause, context })
    }
  }

  /** Runs `onFailure` of a task that has no slot; a shutdown waits for it as for a task. */
  private handleOutside(task: Task, context: Context.Context<never>, handler: AnyEffect): void {
    this.handlers++
    const fiber = Effect.runForkWith(context)(handler, { uninterruptible: true })
    fiber.addObserver((exit) => {
      this.handlers--
      if (Exit.isFailure(exit)) report({ pool: this.name, task: task.name, cause: exit.cause, context })
      if (this.running.size === 0) this.becameEmpty()
    })
  }

  private report(task: Task, cause: Cause.Cause<unknown>): void {
    report({ pool: this.name, task: task.name, cause, context: task.context ?? this.context })
  }

  private clearTimer(task: Task): void {
    const timer = task.extra?.timer
    if (timer === undefined) return
    this.timers.cancel(timer)
    if (task.extra !== undefined) task.extra.timer = undefined
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // Keys
  // ---------------------------------------------------------------------------------------------------------------------

  private keyEnded(key: string, task: Task, outcome: Outcome): void {
    const failed = outcome === "failed" || outcome === "defected" || outcome === "timedOut"
    if (failed && this.settings.onKeyFailure === "park") this.keys.park(key)
    if (failed && this.settings.onKeyFailure === "stop") {
      this.keys.stop(key)
      for (const blocked of [...this.blockedTasks()]) {
        if (blocked.extra?.key !== key || blocked.state !== State.Blocked) continue
        this.leaveBlocked(blocked)
        this.accepted++
        this.record(blocked, "dropped", Exit.fail(this.keyStopped(blocked, key)))
        this.answer(blocked, undefined)
      }
      for (let next = this.keys.firstWaiting(key); next !== undefined; next = this.keys.firstWaiting(key)) {
        this.unqueue(next)
        this.record(next, "dropped", Exit.fail(this.keyStopped(next, key)))
        this.placeFreed(key)
      }
    }
    this.handOver(key, task)
  }

  private handOver(key: string, task: Task): void {
    const next = this.keys.release(key, task)
    if (next !== undefined) this.backlog.push(next)
  }

  private keyStopped(task: Task, key: string): KeyStopped {
    return new KeyStopped({ pool: this.name, task: task.name, key })
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // Waiting
  // ---------------------------------------------------------------------------------------------------------------------

  get isIdle(): boolean {
    return this.running.size === 0 && this.queued === 0 && this.handlers === 0
  }

  /** Nothing runs: perhaps the pool is idle, or its shutdown can go on. */
  private becameEmpty(): void {
    if (this.idleWaiters.size > 0 && this.isIdle) {
      for (const waiter of [...this.idleWaiters]) {
        this.idleWaiters.delete(waiter)
        waiter()
      }
    }
    if (!this.shutdown.isOpen) this.shutdown.progress()
  }

  /** Resumes the fiber with the task's result. `end` gives up the wait, and resumes with something else where it is given. */
  private observeEnd(
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
      this.read(task)
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
  private resumeWaiter(resume: Resume, exit: AnyExit): void {
    if (depth >= deepest) {
      this.dispatcher.scheduleTask(() => resume(exit), 0)
    } else {
      depth++
      resume(exit)
      depth--
    }
  }

  /** Notes what the fiber of a task waits for; the returned function ends the note. Other fibers are not noted. */
  noteWait(fiber: AnyFiber, wait: Wait): PoolDeadlock | (() => void) {
    const waiter = taskOf(fiber)
    if (waiter === undefined) return () => {}
    const lenders: Array<Engine> = []
    const { waits } = waiter.engine
    waits.set(waiter, wait)
    const leave = () => {
      if (waits.get(waiter) === wait) waits.delete(waiter)
      for (let lender = lenders.pop(); lender !== undefined; lender = lenders.pop()) lender.lend(-1)
    }
    while (true) {
      const deadlock = findDeadlock(waiter)
      if (deadlock === undefined) return leave
      if (!deadlock.starved.some((task) => task.engine.help(task, lenders))) {
        leave()
        return new PoolDeadlock({ pool: waiter.engine.name, task: waiter.name, edges: deadlock.edges })
      }
    }
  }

  /** Lets a task that would never have its turn go on, if the policy of its pool allows that. */
  private help(task: Task, lenders: Array<Engine>): boolean {
    const policy = this.settings.onDeadlock
    if (policy === "die") return false
    // A lent slot does not help a task that waits for its key, nor one too heavy for it.
    if (policy === "inline" || this.keys.ahead(task) !== undefined || this.bucket !== undefined) {
      this.startOutOfTurn(task)
      return true
    }
    lenders.push(this)
    this.lend(1)
    return true
  }

  private lend(slots: number): void {
    this.lent += slots
    this.refreshLimit()
  }

  // ---------------------------------------------------------------------------------------------------------------------
  // What the shutdown does
  // ---------------------------------------------------------------------------------------------------------------------

  closed(task: Task, outcome: PoolClosed["outcome"]): PoolClosed {
    return new PoolClosed({ pool: this.name, task: task.name, outcome })
  }

  private full(task: Task, key: string | undefined): PoolFull {
    const capacity = key === undefined ? this.settings.capacity : this.settings.capacityPerKey
    return new PoolFull({ pool: this.name, task: task.name, capacity, key })
  }

  /** Turns away all producers that wait; returns how many. */
  refuseBlocked(): number {
    let count = 0
    for (const task of [...this.blockedTasks()]) {
      this.leaveBlocked(task)
      this.refused++
      count++
      this.answer(task, this.closed(task, "refused"))
    }
    return count
  }

  /** Whether all that is queued waits for parked keys, so that nothing would ever start it. */
  get onlyParked(): boolean {
    return this.backlog.size === 0 && this.keys.waiting > 0 && this.running.size === 0
  }

  /** Drops everything that is queued; returns how many. */
  dropQueued(): number {
    let count = 0
    for (let task = this.firstQueued(); task !== undefined; task = this.firstQueued()) {
      this.unqueue(task)
      this.record(task, "dropped", Exit.fail(this.closed(task, "dropped")))
      count++
    }
    return count
  }

  private firstQueued(): Task | undefined {
    return this.backlog.first() ?? this.keys.first()
  }

  interruptRunning(): void {
    for (const task of [...this.running]) {
      if (task.state !== State.Running || task.has(Flag.Overrunning | Flag.Ending)) continue
      task.flags |= Flag.ShutDown
      this.interrupt(task, undefined)
    }
  }

  abandonRunning(): void {
    for (let task = this.running.head; task !== undefined; task = this.running.head) {
      this.leaveSlot(task)
      this.record(task, "abandoned", Exit.fail(this.closed(task, "abandoned")))
    }
  }

  /** The pool has closed: leaves the registry and reports the failures that nobody read. */
  leave(report: unknown): void {
    this.timers.close()
    this.unread.reportAll()
    this.registry.close(this.entry, report)
  }

  runInPool(effect: AnyEffect): void {
    Effect.runForkWith(this.context)(effect)
  }
}

const join = (exit: AnyExit, finalizer: Exit.Failure<unknown, unknown>): AnyExit =>
  Exit.failCause(Exit.isSuccess(exit) ? finalizer.cause : Cause.combine(exit.cause, finalizer.cause))

const handle = (onFailure: (cause: Cause.Cause<unknown>) => AnyEffect, cause: Cause.Cause<unknown>): AnyEffect =>
  Effect.suspend(() => onFailure(cause))

const isLower = (a: Task, b: Task): boolean =>
  priorityOf(a) < priorityOf(b) || (priorityOf(a) === priorityOf(b) && a.sequence < b.sequence)

const onlyDefects = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Cause.fromReasons(cause.reasons.filter(Cause.isDieReason))

const outcomeOf = (task: Task, exit: AnyExit): Outcome => {
  // Like Effect's own timeout: once it has passed, what the work still brings to an end changes nothing.
  if (task.has(Flag.TimedOut)) return "timedOut"
  if (Exit.isSuccess(exit)) return "succeeded"
  if (Cause.hasDies(exit.cause)) return "defected"
  return Cause.hasFails(exit.cause) ? "failed" : "interrupted"
}

/** An interruption is somebody's wish, and what the pool's own closing ended is in its report. */
const isNews = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.some(
    (reason) => reason._tag === "Die" || (reason._tag === "Fail" && !(reason.error instanceof PoolClosed))
  )
