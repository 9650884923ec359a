/**
 * Puts a consumer together, keeps it subscribed, and closes it with its scope.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { durationProblem, toMillis } from "../../pool/Durations.ts"
import type { WorkerPool } from "../../pool/WorkerPool.ts"
import { InvalidOption, open } from "../../pool/WorkerPool.ts"
import { Registry } from "../../registry/Registry.ts"
import type { BrokerError } from "../BrokerError.ts"
import type { ConsumerHealth, RunningConsumer } from "../ConsumerHealth.ts"
import { ConsumerStopped } from "../ConsumerHealth.ts"
import type { ConsumerReport } from "../ConsumerReport.ts"
import * as Report from "../ConsumerReport.ts"
import type { Driver } from "../Driver.ts"
import type { Undecodable } from "../TopicError.ts"
import type { Work } from "./Attempts.ts"
import { atMost } from "./atMost.ts"
import type { HandleBatch } from "./Batches.ts"
import { Batches } from "./Batches.ts"
import * as Closing from "./Closing.ts"
import type { Subscribed } from "./Connection.ts"
import { Connection, subscribe } from "./Connection.ts"
import { ConsumerEngine } from "./ConsumerEngine.ts"
import type { ConsumerSettings } from "./ConsumerSettings.ts"
import { startEach } from "./Intake.ts"
import { keepLeases } from "./Leases.ts"
import { Registered } from "./Registered.ts"
import type { Restore } from "./Restore.ts"
import { StallWatch } from "./StallWatch.ts"
import type { Decisions } from "./Verdict.ts"

/** What a consumer is made of. */
export interface Parts {
  readonly driver: Driver
  readonly settings: ConsumerSettings
  readonly decisions: Decisions
  readonly work: Work
  readonly handleBatch: HandleBatch | undefined
  readonly onShutdown: ((report: ConsumerReport) => Effect.Effect<unknown>) | undefined
}

class Running {
  private readonly parts: Parts
  private readonly engine: ConsumerEngine
  private readonly registered: Registered
  private readonly batches: Batches | undefined
  private readonly connection: Connection
  private readonly stallWatch: StallWatch
  /** What runs as long as the consumer. */
  private readonly fibers: Scope.Closeable
  private readonly ended = Deferred.makeUnsafe<ConsumerReport>()
  private stoppedBy: Undecodable | undefined = undefined
  private closing = false

  constructor(parts: Parts, engine: ConsumerEngine, subscribed: Subscribed, registered: Registered) {
    this.parts = parts
    this.engine = engine
    this.registered = registered
    registered.consumer = { accounting: () => engine.books.read(), notes: () => this.notes() }
    this.fibers = Scope.makeUnsafe()
    const { batch } = parts.settings
    this.batches =
      batch === undefined || parts.handleBatch === undefined
        ? undefined
        : new Batches(engine, parts.handleBatch, batch.size, batch.linger)
    this.connection = new Connection(engine, subscribed, this.batches?.add ?? startEach(engine))
    this.stallWatch = new StallWatch(engine, this.connection)
  }

  readonly begin: Effect.Effect<void> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      const { engine, fibers } = this
      const stop = yield* Deferred.make<void>()
      engine.onStop = (error) => {
        this.stoppedBy ??= error
        // At once, so that nothing more begins.
        if (engine.phase === "open") engine.phase = "draining"
        Deferred.doneUnsafe(stop, Exit.void)
      }
      yield* Effect.forkIn(engine.settler.run, fibers)
      yield* Effect.forkIn(keepLeases(engine), fibers)
      yield* Effect.forkIn(this.stallWatch.run, fibers)
      // Detached: closing ends the fibers above, and must not end itself.
      yield* Effect.forkIn(
        Effect.andThen(
          Deferred.await(stop),
          Effect.suspend(() => Effect.forkDetach(this.drain(this.parts.settings.shutdownDeadline)))
        ),
        fibers
      )
      yield* this.connection.work
    })
  )

  /** Closes the consumer, once; everybody gets the same report. */
  drain(deadline: number): Effect.Effect<ConsumerReport> {
    // Whoever asked for it may go away: a consumer that has begun to close closes.
    const begin = Effect.suspend((): Effect.Effect<unknown> => {
      // The earlier deadline wins.
      if (this.closing) return Effect.forkDetach(this.engine.pool.shutdown({ deadline }))
      this.closing = true
      // Also a bug in here must not keep those waiting who wait for the end.
      const close = Effect.onExit(this.close(deadline), (exit) => Deferred.done(this.ended, exit))
      return Effect.forkDetach(close)
    })
    return Effect.andThen(Effect.uninterruptible(begin), Deferred.await(this.ended))
  }

  private close(deadline: number): Effect.Effect<ConsumerReport> {
    return Effect.uninterruptible(
      Effect.gen({ self: this }, function* () {
        const { batches, connection, engine, parts } = this
        const stopTaking = Effect.andThen(connection.stopTaking, batches?.close ?? Effect.void)
        const unsubscribe = Effect.uninterruptible(Effect.andThen(Scope.close(this.fibers, Exit.void), connection.end))
        const report = yield* Closing.close(engine, deadline, { stopTaking, unsubscribe })
        this.registered.close(report)
        const line = Report.format(report)
        yield* Report.isClean(report) ? Effect.logDebug(line) : Effect.logWarning(line)
        if (this.stoppedBy !== undefined) {
          yield* Effect.logError(`Consumer ${engine.name} has stopped: ${this.stoppedBy.message}`)
        }
        const { onShutdown } = parts
        if (onShutdown !== undefined) {
          const told = Effect.suspend(() => onShutdown(report))
          yield* atMost(parts.settings.shutdownGrace, `onShutdown of consumer ${engine.name}`, told)
        }
        return report
      })
    )
  }

  private health(): ConsumerHealth {
    const { engine } = this
    const problem = engine.problem ?? engine.subscription.problem?.()
    const status =
      engine.phase === "closed"
        ? "stopped"
        : engine.phase === "draining"
          ? "draining"
          : problem !== undefined
            ? "unreachable"
            : this.stallWatch.stalled
              ? "stalled"
              : engine.paused
                ? "paused"
                : "consuming"
    return { status, problem, sinceTaken: engine.now() - this.connection.takenAt }
  }

  /** What a person should know of it beside its numbers. */
  private notes(): ReadonlyArray<string> {
    const { problem, status } = this.health()
    // The pool says itself that it is paused or closing.
    return status === "unreachable" || status === "stalled"
      ? [problem === undefined ? status : `${status}: ${problem.message}`]
      : []
  }

  face(pool: WorkerPool): RunningConsumer {
    const { engine } = this
    const { shutdownDeadline } = this.parts.settings
    const pause = Effect.suspend(() => {
      engine.paused = true
      return Effect.andThen(pool.pause, this.connection.tellCredit)
    })
    const resume = Effect.suspend(() => {
      engine.paused = false
      engine.room.openUnsafe()
      return Effect.andThen(pool.resume, this.connection.tellCredit)
    })
    return {
      topic: engine.work.topic,
      group: engine.work.group,
      accounting: Effect.sync(() => engine.books.read()),
      health: Effect.sync(() => this.health()),
      pause,
      resume,
      resize: (concurrency) =>
        Effect.map(pool.resize(concurrency), () => {
          engine.concurrency = concurrency
          engine.room.openUnsafe()
        }),
      drain: (options) =>
        Effect.withFiber((fiber) => {
          const problem = drainProblem(options?.deadline, engine.handles(fiber))
          return problem === undefined
            ? this.drain(toMillis(options?.deadline) ?? shutdownDeadline)
            : Effect.die(new InvalidOption({ operation: `drain of consumer ${engine.name}`, problem }))
        }),
      stopped: Effect.flatMap(Deferred.await(this.ended), (report) =>
        this.stoppedBy === undefined
          ? Effect.succeed(report)
          : Effect.fail(new ConsumerStopped({ topic: report.topic, group: report.group, cause: this.stoppedBy }))
      )
    }
  }
}

const drainProblem = (deadline: unknown, isOwnHandler: boolean): string | undefined => {
  if (isOwnHandler) return "its own handler would wait for itself; fork it: Effect.forkDetach(consumer.drain())"
  return deadline === undefined || toMillis(deadline) !== undefined ? undefined : durationProblem("deadline", deadline)
}

/** Opens a consumer that closes with the scope. One that cannot subscribe leaves nothing behind in it. */
export const run = (parts: Parts): Effect.Effect<RunningConsumer, BrokerError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Effect.scope, (outer) =>
      Effect.flatMap(Scope.fork(outer), (scope) =>
        Effect.onError(Scope.provide(openIn(parts, restore), scope), (cause) =>
          Scope.close(scope, Exit.failCause(cause))
        )
      )
    )
  )

const openIn = (parts: Parts, restore: Restore): Effect.Effect<RunningConsumer, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const { settings, work } = parts
    const { topic, group } = work
    const registry = yield* Registry
    const registered = new Registered(registry)
    const pool = yield* open<"suspend", "continue">("Consumer", "Consumer", {
      name: `${topic}/${group}`,
      concurrency: settings.concurrency,
      capacity: settings.prefetch,
      rateLimit: settings.rateLimit,
      shutdownDeadline: settings.shutdownDeadline,
      shutdownGrace: settings.shutdownGrace,
      owner: registered.open
    })
    yield* Effect.addFinalizer(() => Effect.sync(() => registered.close(undefined)))
    const subscribed = yield* subscribe(parts, restore)
    const clock = yield* Clock.Clock
    const { subscription } = subscribed
    const engine = new ConsumerEngine({ ...parts, pool, clock, registry, subscription })
    const running = new Running(parts, engine, subscribed, registered)
    yield* Effect.addFinalizer(() => running.drain(settings.shutdownDeadline))
    yield* running.begin
    return running.face(pool)
  })
