/**
 * The subscription of a consumer with what works on it: the intake, the watch for what is lost, and the word about credit.
 * They end with it, and begin again with the next.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { BrokerError } from "../BrokerError.ts"
import type { Driver, Subscription } from "../Driver.ts"
import type { Work } from "./Attempts.ts"
import { atMost } from "./atMost.ts"
import type { ConsumerEngine } from "./ConsumerEngine.ts"
import type { ConsumerSettings } from "./ConsumerSettings.ts"
import type { Held } from "./Held.ts"
import { intake } from "./Intake.ts"
import { watchLost } from "./Leases.ts"
import type { Restore } from "./Restore.ts"

/** A subscription with the scope that ends it. */
export interface Subscribed {
  readonly subscription: Subscription
  readonly scope: Scope.Closeable
}

/** Opens a subscription. To be called where nothing is interrupted but what is restored, so that nothing stays behind. */
export const subscribe = (
  { driver, settings, work }: { readonly driver: Driver; readonly settings: ConsumerSettings; readonly work: Work },
  restore: Restore
): Effect.Effect<Subscribed, BrokerError> =>
  Effect.gen(function* () {
    const { topic, group } = work
    const { lease, order, prefetch, prefetchPerKey, replay } = settings
    // A group that begins in the past is made by its subscription, which knows where it begins.
    yield* restore(driver.declare({ topic, groups: replay === undefined ? [group] : [] }))
    const scope = yield* Scope.make()
    const options = { topic, group, credit: prefetch, perKey: prefetchPerKey, lease, order, replay }
    const subscription = yield* restore(Scope.provide(driver.subscribe(options), scope)).pipe(
      Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
    )
    return { subscription, scope }
  })

export class Connection {
  /** When messages were last taken; at first, when the consumer began. */
  takenAt: number
  /** The same for this subscription. */
  idleSince: number
  private taking: Fiber.Fiber<never> | undefined = undefined
  private workers = Scope.makeUnsafe()
  private telling = false
  private untold = false
  private subscribed: Subscribed
  private readonly engine: ConsumerEngine
  private readonly start: (held: ReadonlyArray<Held>) => Effect.Effect<void>

  constructor(
    engine: ConsumerEngine,
    subscribed: Subscribed,
    start: (held: ReadonlyArray<Held>) => Effect.Effect<void>
  ) {
    this.engine = engine
    this.subscribed = subscribed
    this.start = start
    this.takenAt = engine.now()
    this.idleSince = this.takenAt
  }

  /** Starts what works on the subscription. */
  readonly work: Effect.Effect<void> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      const { engine, workers } = this
      const taking = intake(engine, this.start, () => {
        this.takenAt = engine.now()
        this.idleSince = this.takenAt
      })
      this.taking = yield* Effect.forkIn(taking, workers)
      yield* Effect.forkIn(watchLost(engine), workers)
    })
  )

  readonly stopTaking: Effect.Effect<void> = Effect.suspend(() =>
    this.taking === undefined ? Effect.void : Fiber.interrupt(this.taking)
  )

  /** Ends the subscription; what it still holds is given back. Not to be stopped half way. */
  readonly end: Effect.Effect<void> = Effect.suspend(() =>
    Effect.uninterruptible(
      Effect.andThen(Scope.close(this.workers, Exit.void), Scope.close(this.subscribed.scope, Exit.void))
    )
  )

  /** Replaces the subscription by a new one, however long that takes. */
  readonly again: Effect.Effect<void> = Effect.uninterruptibleMask((restore) =>
    Effect.gen({ self: this }, function* () {
      const { engine } = this
      yield* atMost(engine.settings.shutdownGrace, `The end of a subscription of consumer ${engine.name}`, this.end)
      // What the old one had handed over has gone back with it.
      for (const held of [...engine.held.values()]) engine.lose(held, "taken")
      const next = Effect.map(subscribe(engine, restore), (subscribed) => {
        this.subscribed = subscribed
        engine.subscription = subscribed.subscription
      })
      yield* restore(engine.insist("subscribe", () => Effect.uninterruptible(next)))
      this.workers = Scope.makeUnsafe()
      this.telling = false
      this.idleSince = engine.now()
      yield* this.work
      if (engine.paused) yield* this.tellCredit
    })
  )

  /**
   * Tells the broker what is wanted, in the background until it has heard. One call at a time, each with what is wanted by
   * then, so that a slow one cannot undo a newer.
   */
  readonly tellCredit: Effect.Effect<void> = Effect.suspend(() => {
    const { engine } = this
    this.untold = true
    if (this.telling) return Effect.void
    this.telling = true
    const tell = engine.insistInTime("change its credit", () => {
      this.untold = false
      return engine.subscription.setCredit(engine.paused || engine.phase !== "open" ? 0 : engine.settings.prefetch)
    })
    const told = Effect.sync(() => {
      this.telling = false
    })
    return Effect.asVoid(
      Effect.forkIn(Effect.andThen(Effect.repeat(tell, { while: () => this.untold }), told), this.workers, {
        startImmediately: true
      })
    )
  })
}
