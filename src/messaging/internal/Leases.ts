/**
 * Keeps the leases of what is held, from its arrival until it is settled, and notices when one is lost.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { ConsumerEngine } from "./ConsumerEngine.ts"
import type { Held } from "./Held.ts"

const leased = (engine: ConsumerEngine): Array<Held> =>
  [...engine.held.values()].filter(({ leaseEndsAt, lost }) => leaseEndsAt !== undefined && lost === undefined)

/**
 * Renews at a third of the lease. What could not be renewed is given up a twelfth before its end, so that its handler has
 * stopped when another begins.
 */
export const renewLeases = (engine: ConsumerEngine): Effect.Effect<never> => {
  const period = engine.settings.lease / 3
  const margin = engine.settings.lease / 12
  const renew = Effect.suspend(() => {
    const held = leased(engine)
    if (held.length === 0) return engine.works("renew leases")
    return Effect.suspend(() => engine.subscription.renew(held.map(({ delivery }) => delivery))).pipe(
      // An answer that never comes must not keep the others from being given up in time.
      Effect.timeoutOption(period),
      Effect.map(
        Option.map((ends) =>
          held.forEach((one, i) => {
            const end = ends[i]
            if (end === "Lost") engine.lose(one, "taken")
            else one.leaseEndsAt = end
          })
        )
      ),
      Effect.catch((error) => engine.trouble("renew leases", error))
    )
  })
  const giveUp = Effect.sync(() => {
    const now = engine.now()
    for (const one of leased(engine)) if ((one.leaseEndsAt ?? now) - margin <= now) engine.lose(one, "expired")
  })
  /** Until the next renewal, or the end of a lease that could not be renewed. */
  const pause = Effect.suspend(() => {
    const now = engine.now()
    const next = leased(engine).reduce((least, one) => Math.min(least, (one.leaseEndsAt ?? now) - margin - now), period)
    return Effect.sleep(Math.max(1, next))
  })
  return Effect.forever(pause.pipe(Effect.andThen(giveUp), Effect.andThen(renew), Effect.andThen(giveUp)))
}

/** What the broker takes away without being asked. */
export const watchLost = (engine: ConsumerEngine): Effect.Effect<void> =>
  Stream.runForEach(engine.subscription.lost, (deliveries) =>
    Effect.sync(() => {
      for (const delivery of deliveries) {
        const held = engine.held.get(delivery)
        if (held !== undefined) engine.lose(held, "taken")
      }
    })
  )
