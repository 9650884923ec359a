/**
 * Consumption is watched, not the connection: a broker that has fallen silent, and a subscription that brings nothing although
 * messages wait, are problems that nobody else tells of.
 */
import * as Effect from "effect/Effect"
import type { Backlog } from "../Driver.ts"
import type { Connection } from "./Connection.ts"
import type { ConsumerEngine } from "./ConsumerEngine.ts"

export class StallWatch {
  /** The time of the last take when messages were first seen to wait: they may have come that moment. */
  private suspectedAt: number | undefined = undefined
  /** The same when they were seen to wait again. */
  private stalledAt: number | undefined = undefined
  private readonly engine: ConsumerEngine
  private readonly connection: Connection

  constructor(engine: ConsumerEngine, connection: Connection) {
    this.engine = engine
    this.connection = connection
  }

  /** Messages wait, nothing is held, and nothing is taken. */
  get stalled(): boolean {
    return this.stalledAt === this.connection.takenAt
  }

  readonly run: Effect.Effect<never> = Effect.suspend(() =>
    Effect.forever(Effect.andThen(Effect.sleep(this.engine.settings.stallAfter), this.look))
  )

  private readonly look: Effect.Effect<void> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      const { connection, engine } = this
      const { stallAfter } = engine.settings
      const askedAt = engine.settler.askedAt
      if (askedAt !== undefined && engine.now() - askedAt >= stallAfter) {
        yield* engine.trouble("settle", engine.silent("settle", engine.now() - askedAt))
        engine.settler.askAgain()
      }
      if (!this.isIdle()) return
      if (engine.isRefusedToTake) return yield* connection.again
      const backlog = yield* this.backlog
      if (backlog === undefined || !this.isIdle()) return
      const ready = readyOf(backlog, engine.settings.order)
      const { takenAt } = connection
      this.stalledAt = ready > 0 && this.suspectedAt === takenAt ? takenAt : undefined
      this.suspectedAt = ready > 0 ? takenAt : undefined
      if (!this.stalled) return
      const idleFor = Math.round((engine.now() - takenAt) / 1000)
      yield* Effect.logWarning(
        `Consumer ${engine.name} has taken nothing for ${idleFor} s although ${ready} messages wait; it subscribes anew`
      )
      yield* connection.again
    })
  )

  /** Whether messages could come and none have for a while. What is held would be lost with the subscription. */
  private isIdle(): boolean {
    const { connection, engine } = this
    return (
      engine.phase === "open" &&
      !engine.paused &&
      engine.held.size === 0 &&
      engine.now() - connection.idleSince >= engine.settings.stallAfter
    )
  }

  /** What waits; `undefined` where the broker does not say so. */
  private readonly backlog: Effect.Effect<Backlog | undefined> = Effect.suspend(() => {
    const { engine } = this
    const { stallAfter } = engine.settings
    const { topic, group } = engine.work
    return Effect.suspend(() => engine.subscription.backlog ?? engine.driver.backlog({ topic, group })).pipe(
      Effect.timeoutOrElse({
        duration: stallAfter,
        orElse: () => Effect.fail(engine.silent("backlog", stallAfter))
      }),
      Effect.catchDefect((defect) => Effect.fail(defect)),
      Effect.matchEffect({
        onFailure: (error) => Effect.as(engine.trouble("ask for the backlog", error), undefined),
        onSuccess: (backlog) => Effect.as(engine.answers, backlog)
      })
    )
  })
}

/** Messages that should be handed over, as far as the broker says. Those of a key wait behind what is held or delayed. */
const readyOf = ({ delayed = 0, inFlight = 0, waiting = 0 }: Backlog, order: "key" | "none"): number => {
  if (order === "key" && delayed + inFlight > 0) return 0
  return Math.max(0, waiting - delayed)
}
