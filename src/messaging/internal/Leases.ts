/**
 * Keeps the leases of what is held, from its arrival until it is settled, and notices when one is lost.
 *
 * Renewed when two thirds are left. What could not be renewed is given up a twelfth before its end, so that its handler has
 * stopped when another begins; that waits for no answer of the broker.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import { BrokerError, Unavailable } from "../BrokerError.ts"
import type { ConsumerEngine } from "./ConsumerEngine.ts"
import type { Held } from "./Held.ts"

const leased = (engine: ConsumerEngine): Array<Held & { readonly leaseEndsAt: number }> =>
  [...engine.held.values()].filter(
    (held): held is Held & { leaseEndsAt: number } => held.leaseEndsAt !== undefined && held.lost === undefined
  )

/** What is being settled has no handler to interrupt any more; the answer to its settlement says what has become of it. */
const mayBeLost = ({ state }: Held): boolean => state !== "settling"

export const keepLeases = (engine: ConsumerEngine): Effect.Effect<never> => {
  const { lease } = engine.settings
  const margin = lease / 12
  let renewing = false
  /** A driver that fails at once is not asked again at once. */
  let notBefore = Number.NEGATIVE_INFINITY

  const renew = Effect.suspend(() => {
    const held = leased(engine)
    renewing = true
    notBefore = engine.now() + margin
    return Effect.suspend(() => engine.subscription.renew(held.map(({ delivery }) => delivery))).pipe(
      Effect.timeoutOption(lease / 3),
      Effect.catchDefect((defect) => Effect.fail(defect)),
      Effect.matchEffect({
        onFailure: (error) => engine.trouble("renew leases", error),
        onSuccess: Option.match({
          onNone: () => engine.trouble("renew leases", silent(engine, lease / 3)),
          onSome: (ends) => {
            held.forEach((one, i) => {
              const end = ends[i]
              if (end === "Lost") engine.lose(one, "taken")
              else if (end !== undefined) one.leaseEndsAt = end
            })
            return engine.works("renew leases")
          }
        })
      }),
      Effect.ensuring(
        Effect.sync(() => {
          renewing = false
          engine.leases.openUnsafe()
        })
      )
    )
  })

  const giveUp = Effect.suspend(() => {
    const now = engine.now()
    const late = leased(engine).filter((held) => mayBeLost(held) && held.leaseEndsAt - margin <= now)
    for (const one of late) engine.lose(one, "expired")
    return late.length === 0
      ? Effect.void
      : Effect.logWarning(
          `Consumer ${engine.name} could not renew the leases of ${late.length} messages, such as ${late[0]?.envelope.id}: their handlers are interrupted, and others may handle them`
        )
  })

  const startRenewal = Effect.suspend(() => {
    const now = engine.now()
    const due = leased(engine).some((held) => held.renewAt(lease) <= now)
    return due && !renewing && now >= notBefore ? Effect.forkChild(renew, { startImmediately: true }) : Effect.void
  })

  /** Until the next renewal or loss, or the arrival of something more urgent. */
  const pause = Effect.suspend(() => {
    const held = leased(engine)
    const loss = held.filter(mayBeLost).reduce((least, one) => Math.min(least, one.leaseEndsAt - margin), Infinity)
    const due = held.reduce((least, one) => Math.min(least, one.renewAt(lease)), Infinity)
    engine.leasesSeenTo = Math.min(loss, renewing ? Infinity : Math.max(notBefore, due))
    engine.leases.closeUnsafe()
    const millis = Math.max(1, engine.leasesSeenTo - engine.now())
    return millis === Infinity
      ? engine.leases.await
      : Effect.raceFirst(engine.leases.await, Effect.sleep(Math.ceil(millis)))
  })

  return Effect.forever(giveUp.pipe(Effect.andThen(startRenewal), Effect.andThen(pause)))
}

const silent = ({ driver, work }: ConsumerEngine, millis: number): BrokerError =>
  new BrokerError({
    broker: driver.system,
    operation: "renew",
    topic: work.topic,
    reason: new Unavailable({
      detail: `no answer for ${Math.round(millis / 1000)} s; look whether the broker can be reached and has room`
    })
  })

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
