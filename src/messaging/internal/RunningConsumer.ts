/**
 * Puts a consumer together, keeps it subscribed, and closes it with its scope.
 */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import { toMillis } from "../../pool/Durations.ts"
import type { WorkerPool } from "../../pool/WorkerPool.ts"
import { open } from "../../pool/WorkerPool.ts"
import { Registry } from "../../registry/Registry.ts"
import type { BrokerError } from "../BrokerError.ts"
import type { ConsumerHealth, RunningConsumer } from "../ConsumerHealth.ts"
import { ConsumerStopped } from "../ConsumerHealth.ts"
import type { ConsumerReport } from "../ConsumerReport.ts"
import * as Report from "../ConsumerReport.ts"
import type { Driver, Subscription } from "../Driver.ts"
import type { Undecodable } from "../TopicError.ts"
import type { Work } from "./Attempts.ts"
import type { HandleBatch } from "./Batches.ts"
import { Batches } from "./Batches.ts"
import { untilItWorks } from "./backoff.ts"
import * as Closing from "./Closing.ts"
import { ConsumerEngine } from "./ConsumerEngine.ts"
import type { ConsumerSettings } from "./ConsumerSettings.ts"
import { intake, startEach } from "./Intake.ts"
import { renewLeases, watchLost } from "./Leases.ts"
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

/** A subscription with the scope that ends it. */
interface Subscribed {
  readonly subscription: Subscription
  readonly scope: Scope.Closeable
}

const subscribe = ({ driver, settings, work }: Parts): Effect.Effect<Subscribed, BrokerError> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const { topic, group } = work
      const { lease, order, prefetch, prefetchPerKey, replay } = settings
      const options = { topic, group, credit: prefetch, perKey: prefetchPerKey, lease, order, replay }
      const subscription = yield* restore(Scope.provide(driver.subscribe(options), scope)).pipe(
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
      return { subscription, scope }
    })
  )

class Running {
  private readonly parts: Parts
  private readonly engine: ConsumerEngine
  private readonly batches: Batches | undefined
  private subscribed: Subscribed
  private takenAt: number
  private stalled = false
  private taking: Fiber.Fiber<never> | undefined = undefined
  /** What watches the subscription, in a scope that ends with it. */
  private watchers: Scope.Closeable
  /** What runs as long as the consumer. */
  private readonly fibers: Scope.Closeable
  private readonly ended = Deferred.makeUnsafe<ConsumerReport>()
  private stoppedBy: Undecodable | undefined = undefined
  private closing = false

  constructor(parts: Parts, engine: ConsumerEngine, subscribed: Subscribed) {
    this.parts = parts
    this.engine = engine
    this.subscribed = subscribed
    this.takenAt = engine.now()
    this.watchers = Scope.makeUnsafe()
    this.fibers = Scope.makeUnsafe()
    const { batch } = parts.settings
    this.batches =
      batch === undefined || parts.handleBatch === undefined
        ? undefined
        : new Batches(engine, parts.handleBatch, batch.size, batch.linger)
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
      yield* Effect.forkIn(renewLeases(engine), fibers)
      yield* Effect.forkIn(this.watchForStall, fibers)
      // Detached: closing ends the fibers above, and must not end itself.
      yield* Effect.forkIn(
        Effect.andThen(
          Deferred.await(stop),
          Effect.suspend(() => Effect.forkDetach(this.drain(0)))
        ),
        fibers
      )
      yield* this.watch
    })
  )

  /** Starts what works on the subscription. */
  private readonly watch: Effect.Effect<void> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      const { batches, engine, watchers } = this
      const taking = intake(engine, batches?.add ?? startEach(engine), () => {
        this.takenAt = engine.now()
        this.stalled = false
      })
      this.taking = yield* Effect.forkIn(taking, watchers)
      yield* Effect.forkIn(watchLost(engine), watchers)
    })
  )

  /** Ends the subscription; what it still holds is given back. */
  private readonly unsubscribe: Effect.Effect<void> = Effect.suspend(() =>
    Effect.andThen(
      Scope.close(this.watchers, Exit.void),
      Effect.catchCause(Scope.close(this.subscribed.scope, Exit.void), (cause) =>
        Effect.logWarning(`The subscription of consumer ${this.engine.name} did not close cleanly`, cause)
      )
    )
  )

  /**
   * Consumption is watched, not the connection: with a backlog, idle handlers and nothing taken for a while, something is
   * wrong that nobody has said, and a new subscription is the cure.
   */
  private readonly watchForStall: Effect.Effect<never> = Effect.suspend(() => {
    const { stallAfter } = this.parts.settings
    const look = Effect.gen({ self: this }, function* () {
      const { engine } = this
      const idleFor = engine.now() - this.takenAt
      if (engine.phase !== "open" || engine.paused || engine.held.size > 0 || idleFor < stallAfter) return
      const { topic, group } = engine.work
      const { delayed, waiting } = yield* engine.subscription.backlog ?? engine.driver.backlog({ topic, group })
      // It answers, although no message has come that would show it.
      engine.problem = undefined
      if (waiting === undefined || waiting - (delayed ?? 0) <= 0) return
      this.stalled = true
      yield* Effect.logWarning(
        `Consumer ${engine.name} has taken nothing for ${Math.round(idleFor / 1000)} s although ${waiting} messages wait; it subscribes anew`
      )
      yield* this.subscribeAnew
    })
    return Effect.forever(
      Effect.andThen(
        Effect.sleep(stallAfter),
        Effect.catch(look, (error) => this.engine.trouble("ask for the backlog", error))
      )
    )
  })

  private readonly subscribeAnew: Effect.Effect<void> = Effect.suspend(() =>
    Effect.uninterruptible(
      Effect.gen({ self: this }, function* () {
        const { engine } = this
        yield* this.unsubscribe
        const subscribed = yield* Effect.interruptible(subscribe(this.parts)).pipe(
          Effect.tapError((error) => engine.trouble("subscribe", error)),
          Effect.retry(untilItWorks),
          // The schedule never ends.
          Effect.orDie
        )
        this.subscribed = subscribed
        engine.subscription = subscribed.subscription
        this.watchers = Scope.makeUnsafe()
        this.takenAt = engine.now()
        yield* this.watch
      })
    )
  )

  /** Closes the consumer, once; everybody gets the same report. */
  drain(deadline: number): Effect.Effect<ConsumerReport> {
    // Whoever asked for it may go away: a consumer that has begun to close closes.
    const begin = Effect.suspend(() => {
      if (this.closing) return Effect.void
      this.closing = true
      return Effect.asVoid(Effect.forkDetach(this.close(deadline)))
    })
    return Effect.andThen(Effect.uninterruptible(begin), Deferred.await(this.ended))
  }

  private close(deadline: number): Effect.Effect<void> {
    return Effect.uninterruptible(
      Effect.gen({ self: this }, function* () {
        const { batches, engine, parts } = this
        const taking = this.taking
        const stopTaking = Effect.andThen(
          taking === undefined
            ? Effect.void
            : Effect.timeoutOption(Fiber.interrupt(taking), parts.settings.shutdownGrace),
          batches?.close ?? Effect.void
        )
        const unsubscribe = Effect.andThen(Scope.close(this.fibers, Exit.void), this.unsubscribe)
        const report = yield* Closing.close(engine, deadline, { stopTaking, unsubscribe })
        const line = Report.format(report)
        yield* Report.isClean(report) ? Effect.logDebug(line) : Effect.logWarning(line)
        if (this.stoppedBy !== undefined) {
          yield* Effect.logError(`Consumer ${engine.name} has stopped: ${this.stoppedBy.message}`)
        }
        const { onShutdown } = parts
        if (onShutdown !== undefined) {
          yield* Effect.suspend(() => onShutdown(report)).pipe(
            Effect.interruptible,
            Effect.timeoutOption(parts.settings.shutdownGrace),
            Effect.catchCause((cause) => Effect.logError(`onShutdown of consumer ${engine.name} failed`, cause))
          )
        }
        Deferred.doneUnsafe(this.ended, Exit.succeed(report))
      })
    )
  }

  /** Tells the broker what is wanted, in the background until it has heard: what is wanted by then, for that may change. */
  private readonly tellCredit: Effect.Effect<void> = Effect.suspend(() => {
    const { engine } = this
    const tell = Effect.suspend(() =>
      engine.subscription.setCredit(engine.paused || engine.phase !== "open" ? 0 : engine.settings.prefetch)
    ).pipe(
      Effect.tapError((error) => engine.trouble("change its credit", error)),
      Effect.retry(untilItWorks),
      // The schedule never ends.
      Effect.orDie,
      Effect.tap(() =>
        Effect.sync(() => {
          engine.problem = undefined
        })
      )
    )
    return Effect.asVoid(Effect.forkIn(tell, this.fibers, { startImmediately: true }))
  })

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
            : this.stalled
              ? "stalled"
              : engine.paused
                ? "paused"
                : "consuming"
    return { status, problem, sinceTaken: engine.now() - this.takenAt }
  }

  face(pool: WorkerPool): RunningConsumer {
    const { engine } = this
    const { shutdownDeadline } = this.parts.settings
    const pause = Effect.suspend(() => {
      engine.paused = true
      return Effect.andThen(pool.pause, this.tellCredit)
    })
    const resume = Effect.suspend(() => {
      engine.paused = false
      engine.room.openUnsafe()
      return Effect.andThen(pool.resume, this.tellCredit)
    })
    return {
      topic: engine.work.topic,
      group: engine.work.group,
      accounting: Effect.sync(() => engine.books.read()),
      health: Effect.sync(() => this.health()),
      pause,
      resume,
      resize: pool.resize,
      drain: (options) => this.drain(toMillis(options?.deadline) ?? shutdownDeadline),
      stopped: Effect.flatMap(Deferred.await(this.ended), (report) =>
        this.stoppedBy === undefined
          ? Effect.succeed(report)
          : Effect.fail(new ConsumerStopped({ topic: report.topic, group: report.group, cause: this.stoppedBy }))
      )
    }
  }
}

/** Opens a consumer that closes with the scope. */
export const run = (parts: Parts): Effect.Effect<RunningConsumer, BrokerError, Scope.Scope> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const { driver, settings, work } = parts
      const { topic, group } = work
      // A group that begins in the past is made by its subscription, which knows where it begins.
      const groups = settings.replay === undefined ? [group] : []
      yield* restore(driver.declare({ topic, groups }))
      const pool = yield* open<"suspend", "continue">("Consumer", "Consumer", {
        name: `${topic}/${group}`,
        concurrency: settings.concurrency,
        capacity: settings.prefetch,
        rateLimit: settings.rateLimit,
        shutdownDeadline: settings.shutdownDeadline,
        shutdownGrace: settings.shutdownGrace,
        silent: true
      })
      const subscribed = yield* restore(subscribe(parts))
      const clock = yield* Clock.Clock
      const registry = yield* Registry
      const { subscription } = subscribed
      const engine = new ConsumerEngine({ ...parts, pool, clock, registry, subscription })
      const running = new Running(parts, engine, subscribed)
      yield* Effect.addFinalizer(() => running.drain(settings.shutdownDeadline))
      yield* running.begin
      return running.face(pool)
    })
  )
