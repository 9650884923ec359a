/**
 * How a pool closes. It always ends, whatever the tasks do:
 *
 * ```text
 *   open ──▶ draining ──deadline──▶ interrupting ──grace──▶ closed
 *               │ all ended                │ all stopped      ▲  what still runs is abandoned
 *               └──────────────────────────┴──────────────────┘
 * ```
 *
 * No state is left on the way: every handle is settled and every producer answered when the report is there.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { Outcome } from "../Accounting.ts"
import { settled } from "../Accounting.ts"
import type { ShutdownReport, UnfinishedTask } from "../ShutdownReport.ts"
import * as Report from "../ShutdownReport.ts"
import type { Wait } from "./Deadlock.ts"
import type { Engine } from "./Engine.ts"
import { waitsFor } from "./Inspect.ts"
import type { Task } from "./Task.ts"
import type { Timer } from "./Timers.ts"

export class Shutdown {
  private phase: "open" | "draining" | "interrupting" | "closed" = "open"
  private report: ShutdownReport | undefined = undefined
  private timer: Timer | undefined = undefined
  private deadlineAt = Number.POSITIVE_INFINITY
  private beganAt = 0
  private endedBefore = 0
  private drained = 0
  private dropped = 0
  private refused = 0
  /** How many loops are telling others what was dropped or refused. They may do anything, so nothing is concluded before. */
  private telling = 0
  private interrupted: ReadonlyArray<UnfinishedTask> = []
  private abandoned: ReadonlyArray<UnfinishedTask> = []
  private readonly waiters = new Set<(report: ShutdownReport) => void>()
  private readonly engine: Engine

  constructor(engine: Engine) {
    this.engine = engine
  }

  get isOpen(): boolean {
    return this.phase === "open"
  }

  /** Whether it ends by itself, whatever the tasks do. */
  get hasDeadline(): boolean {
    return this.deadlineAt !== Number.POSITIVE_INFINITY
  }

  /** Closes the pool and waits for the report. A task that waits here for its own pool would wait for itself. */
  run(
    fiber: Fiber.Fiber<unknown, unknown>,
    operation: "drain" | "shutdown",
    deadline: number
  ): Effect.Effect<ShutdownReport> {
    return Effect.callback((resume) => {
      if (this.report !== undefined) return resume(Effect.succeed(this.report))
      const wait: Wait = { _tag: "Idle", engine: this.engine, operation }
      const leave = this.engine.waiting.note(fiber, wait, (deadlock) => resume(Effect.die(deadlock)))
      if (leave === undefined) return
      this.begin(deadline)
      return this.wait((report) => {
        leave()
        resume(Effect.succeed(report))
      }, leave)
    })
  }

  /** The same for the end of the pool's scope, which must close it wherever that happens. */
  close(deadline: number): Effect.Effect<ShutdownReport> {
    return Effect.callback((resume) => {
      if (this.report === undefined) this.begin(deadline)
      return this.wait(
        (report) => resume(Effect.succeed(report)),
        () => {}
      )
    })
  }

  /** Nothing runs any more: perhaps that was all. */
  progress(): void {
    if (this.phase === "open" || this.phase === "closed" || this.telling > 0) return
    if (this.engine.admission.onlyParked) this.drop()
    this.conclude()
  }

  private conclude(): void {
    if (!this.isClosed && this.telling === 0 && this.engine.waiting.isIdle) this.complete()
  }

  private drop(): void {
    this.telling++
    this.engine.admission.dropQueued(() => this.dropped++)
    this.telling--
  }

  private refuse(): void {
    this.telling++
    this.engine.admission.refuseBlocked(() => this.refused++)
    this.telling--
  }

  /** A task that was abandoned has ended after all. */
  lateEnd(task: Task, outcome: Outcome): void {
    this.engine.runInPool(
      Effect.logWarning(
        `Task "${task.name}" of closed pool "${this.engine.name}" has ended after it was abandoned: ${outcome}`
      )
    )
  }

  private wait(waiter: (report: ShutdownReport) => void, cancelled: () => void): Effect.Effect<void> | void {
    if (this.report !== undefined) return waiter(this.report)
    this.waiters.add(waiter)
    return Effect.sync(() => {
      cancelled()
      this.waiters.delete(waiter)
    })
  }

  private begin(deadline: number): void {
    const { timers } = this.engine
    const deadlineAt = timers.now() + deadline
    if (this.phase === "open") {
      this.phase = "draining"
      this.beganAt = timers.now()
      this.endedBefore = settled(this.engine.accounting())
      this.refuse()
      // What was accepted runs, also where somebody had paused the pool.
      this.engine.slots.resume()
    }
    // Those who were refused or could go on may have closed the pool meanwhile, or asked for an earlier deadline.
    if (!this.isDraining() || (deadlineAt >= this.deadlineAt && this.timer !== undefined)) return
    this.deadlineAt = deadlineAt
    if (this.timer !== undefined) timers.cancel(this.timer)
    if (deadline <= 0) this.atDeadline()
    else if (deadline !== Number.POSITIVE_INFINITY) this.timer = timers.after(deadline, () => this.atDeadline())
  }

  // Functions, since what stands between two looks at the phase may have changed it.
  private isDraining(): boolean {
    return this.phase === "draining"
  }

  get isClosed(): boolean {
    return this.phase === "closed"
  }

  private atDeadline(): void {
    const { engine } = this
    this.phase = "interrupting"
    this.timer = undefined
    this.drained = this.endedSoFar()
    this.interrupted = unfinished(engine)
    engine.slots.stop()
    this.drop()
    engine.slots.interruptRunning()
    this.conclude()
    if (this.isClosed) return
    const grace = engine.settings.shutdownGrace
    if (grace !== Number.POSITIVE_INFINITY) this.timer = engine.timers.after(grace, () => this.atGraceEnd())
  }

  private atGraceEnd(): void {
    this.timer = undefined
    this.abandoned = unfinished(this.engine)
    this.engine.slots.abandonRunning()
    // Ending the last of them may have completed the shutdown; handlers of onFailure are not waited for any longer.
    if (!this.isClosed) this.complete()
  }

  private endedSoFar(): number {
    return settled(this.engine.accounting()) - this.endedBefore - this.dropped
  }

  private complete(): void {
    const { engine } = this
    if (this.phase === "draining") this.drained = this.endedSoFar()
    this.phase = "closed"
    if (this.timer !== undefined) engine.timers.cancel(this.timer)
    const abandoned = new Set(this.abandoned.map((task) => task.id))
    const report: ShutdownReport = {
      pool: engine.name,
      drained: this.drained,
      interrupted: this.interrupted.filter((task) => !abandoned.has(task.id)),
      abandoned: this.abandoned,
      dropped: this.dropped,
      refused: this.refused,
      elapsed: engine.timers.now() - this.beganAt,
      accounting: engine.accounting()
    }
    engine.waiting.releaseIdle()
    this.announce(report)
  }

  /** Hands the report to the log, to `onShutdown` and to the registry, and then to those who wait. */
  private announce(report: ShutdownReport): void {
    const { onShutdown, owner, shutdownGrace } = this.engine.settings
    const log =
      owner !== undefined || Report.isClean(report)
        ? Effect.logDebug(Report.format(report))
        : Effect.logWarning(Report.format(report))
    const done = () => {
      if (this.report !== undefined) return
      this.report = report
      this.engine.leave(report)
      const waiters = [...this.waiters]
      this.waiters.clear()
      for (const waiter of waiters) waiter(report)
    }
    if (onShutdown === undefined) {
      this.engine.runInPool(log)
      return done()
    }
    // A callback that hangs must not keep the pool from closing.
    const timer = this.engine.timers.after(shutdownGrace, done)
    const told = Effect.suspend(() => onShutdown(report)).pipe(
      Effect.catchCause((cause) => Effect.logError(`onShutdown of pool "${report.pool}" failed`, cause)),
      Effect.andThen(
        Effect.sync(() => {
          this.engine.timers.cancel(timer)
          done()
        })
      )
    )
    this.engine.runInPool(Effect.andThen(log, told))
  }
}

const unfinished = (engine: Engine): ReadonlyArray<UnfinishedTask> =>
  [...engine.slots.running].map((task) => ({ id: task.id, name: task.name, waitsFor: waitsFor(task) }))
