/**
 * The end of a task: its body, then its finalizers, then its `onFailure`, all in its slot; then the one outcome is recorded,
 * and those who wait for it are told.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { Outcome } from "../Accounting.ts"
import { PoolClosed } from "../PoolError.ts"
import type { Engine } from "./Engine.ts"
import { closed, timedOut } from "./errors.ts"
import type { Run } from "./Run.ts"
import type { AnyEffect, AnyExit, Task } from "./Task.ts"
import { CurrentTask, Flag, State } from "./Task.ts"
import { report, Unread } from "./Unread.ts"

export class Ending {
  /** The fibers of `onFailure` that run outside of a slot, because their task never had one. */
  readonly handlers = new Map<Fiber.Fiber<unknown, unknown>, Task>()
  readonly unread = new Unread()
  private readonly engine: Engine

  constructor(engine: Engine) {
    this.engine = engine
  }

  /** The task's effect has ended. Its finalizers and its `onFailure` still run in its slot. */
  bodyEnded(task: Task, run: Run, exit: AnyExit): void {
    this.engine.clearTimer(task)
    // Closed also where it was not used: a fiber that outlives the task must find it closed, not open for ever.
    const closing = Scope.closeUnsafe(run, exit)
    if (closing === undefined) this.scopeClosed(task, exit)
    else this.closeScope(task, closing, exit)
  }

  private closeScope(task: Task, closing: AnyEffect, exit: AnyExit): void {
    this.lastWord(task, closing, (closed) => this.scopeClosed(task, Exit.isSuccess(closed) ? exit : join(exit, closed)))
  }

  scopeClosed(task: Task, bodyExit: AnyExit): void {
    const outcome = outcomeOf(task, bodyExit)
    const exit = this.translate(task, outcome, bodyExit)
    const key = task.extra?.key
    if (key !== undefined && task.state !== State.Settled) this.engine.admission.haltKey(key, outcome)
    const onFailure = task.extra?.onFailure
    if (onFailure === undefined || Exit.isSuccess(exit) || task.state === State.Settled) this.ended(task, outcome, exit)
    else this.tellFailure(task, outcome, exit, handle(onFailure, exit.cause))
  }

  tellFailure(task: Task, outcome: Outcome, exit: AnyExit, handler: AnyEffect): void {
    task.mark(Flag.Told)
    this.lastWord(task, handler, (handling) => {
      if (Exit.isFailure(handling) && isNews(task, handling.cause)) this.report(task, handling.cause)
      this.ended(task, outcome, exit)
    })
  }

  /** Runs something on behalf of a task that must not be interrupted; a fiber of its own follows the task's. */
  lastWord(task: Task, effect: AnyEffect, then: (exit: AnyExit) => void): void {
    task.mark(Flag.Ending)
    // It is still the task that works here, and may wait for others.
    const context = Context.add(task.context ?? this.engine.context, CurrentTask, task)
    Effect.runForkWith(context)(asTask(task, effect), { uninterruptible: true }).addObserver(then)
  }

  /** What the task's exit means to those who wait for it: the pool's own interruptions have names. */
  translate(task: Task, outcome: Outcome, exit: AnyExit): AnyExit {
    if (outcome === "timedOut") {
      const cause = Cause.fail(timedOut(task))
      return Exit.failCause(Exit.isFailure(exit) ? Cause.combine(cause, onlyDefects(exit.cause)) : cause)
    }
    return outcome === "interrupted" && task.has(Flag.ShutDown) ? Exit.fail(closed(task, "interrupted")) : exit
  }

  ended(task: Task, outcome: Outcome, exit: AnyExit): void {
    if (task.state === State.Settled) {
      // It was abandoned: its outcome is recorded, and the pool it belonged to has closed.
      this.engine.books.lateEnds++
      this.engine.shutdown.lateEnd(task, outcome)
      return task.release()
    }
    this.engine.slots.leaveSlot(task)
    this.record(task, outcome, exit)
    const key = task.extra?.key
    if (key !== undefined) this.engine.admission.keyEnded(key, task)
    this.engine.slots.slotLeft()
  }

  /** Records the one outcome of an accepted task, and tells those who wait for it. */
  record(task: Task, outcome: Outcome, exit: AnyExit): void {
    this.engine.books.ends[outcome]++
    if (Exit.isSuccess(exit)) {
      task.settle(exit)
      return task.release()
    }
    const context = task.context ?? this.engine.context
    const neverRan = task.state !== State.Running
    if (task.settle(exit)) task.mark(Flag.Read)
    if (outcome !== "abandoned") task.release()
    const onFailure = task.extra?.onFailure
    if (onFailure !== undefined) {
      if (neverRan || (outcome === "abandoned" && !task.has(Flag.Told)))
        this.handleOutside(task, context, handle(onFailure, exit.cause))
    } else if (!task.has(Flag.Read) && isNews(task, exit.cause)) {
      if (task.has(Flag.Handle)) this.unread.add(task, exit.cause, context)
      else report({ pool: this.engine.name, task: task.name, cause: exit.cause, context })
    }
  }

  /** Runs `onFailure` of a task that has no slot; a shutdown waits for it as for a task. */
  handleOutside(task: Task, context: Context.Context<never>, handler: AnyEffect): void {
    const handling = Effect.withFiber((fiber) => {
      this.handlers.set(fiber, task)
      return handler
    })
    const fiber = Effect.runForkWith(Context.add(context, CurrentTask, task))(handling, { uninterruptible: true })
    fiber.addObserver((exit) => {
      this.handlers.delete(fiber)
      if (Exit.isFailure(exit) && isNews(task, exit.cause))
        report({ pool: this.engine.name, task: task.name, cause: exit.cause, context })
      if (this.engine.slots.running.size === 0) this.engine.waiting.becameEmpty()
    })
  }

  report(task: Task, cause: Cause.Cause<unknown>): void {
    report({ pool: this.engine.name, task: task.name, cause, context: task.context ?? this.engine.context })
  }

  /** The caller of `run` was interrupted after its task had ended and before it was resumed with the result. */
  unheard(task: Task, exit: AnyExit): void {
    if (Exit.isFailure(exit) && isNews(task, exit.cause)) this.report(task, exit.cause)
  }

  /** Somebody saw the result of this task. */
  read(task: Task): void {
    if (task.has(Flag.Read)) return
    task.mark(Flag.Read)
    if (task.state === State.Settled && !task.has(Flag.Succeeded)) this.unread.read(task)
  }
}

/** The effect, run by the task's own fiber. */
const asTask = (task: Task, effect: AnyEffect): AnyEffect =>
  Effect.withFiber((fiber) => {
    if (task.run !== undefined) task.run.fiber = fiber
    return effect
  })

const join = (exit: AnyExit, finalizer: Exit.Failure<unknown, unknown>): AnyExit =>
  Exit.failCause(Exit.isSuccess(exit) ? finalizer.cause : Cause.combine(exit.cause, finalizer.cause))

const handle = (onFailure: (cause: Cause.Cause<unknown>) => AnyEffect, cause: Cause.Cause<unknown>): AnyEffect =>
  Effect.suspend(() => onFailure(cause))

const onlyDefects = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Cause.fromReasons(cause.reasons.filter(Cause.isDieReason))

const outcomeOf = (task: Task, exit: AnyExit): Outcome => {
  // Like Effect's own timeout: once it has passed, what the work still brings to an end changes nothing.
  if (task.has(Flag.TimedOut)) return "timedOut"
  if (Exit.isSuccess(exit)) return "succeeded"
  if (Cause.hasDies(exit.cause)) return "defected"
  return Cause.hasFails(exit.cause) ? "failed" : "interrupted"
}

/** An interruption is somebody's wish, and what the closing of the task's own pool ended is in the report. */
const isNews = (task: Task, cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.some((reason) => reason._tag === "Die" || (reason._tag === "Fail" && !isOwnClosing(task, reason.error)))

const isOwnClosing = (task: Task, error: unknown): boolean =>
  error instanceof PoolClosed && error.pool === task.engine.name && error.task === task.name
