/** Drivers that lose, double, disorder or mistime messages, and the cases of the suite that must notice. */
import { Effect, Scope } from "effect"
import { Broker } from "millrace"
import {
  confirmed,
  type Delivery,
  everyNth,
  type Mutant,
  publishing,
  type Settlement,
  settling,
  subscribing
} from "./support.ts"

export const deliveries: ReadonlyArray<Mutant> = [
  {
    name: "loses what is released",
    caughtBy: ["release", "reopen", "drain", "settle-twice"],
    mutate: settling((settlement) =>
      settlement._tag === "Release" ? { _tag: "Acknowledge", delivery: settlement.delivery } : settlement
    )
  },
  {
    name: "acknowledges what is to be retried",
    caughtBy: ["redelivery", "retry-one-group", "failures-then-success"],
    mutate: settling((settlement) =>
      settlement._tag === "Retry" ? { _tag: "Acknowledge", delivery: settlement.delivery } : settlement
    )
  },
  {
    name: "delivers everything twice",
    caughtBy: ["round-trip", "groups", "redelivery"],
    mutate: (driver) => ({
      ...driver,
      publish: (messages) => Effect.tap(driver.publish(messages), () => driver.publish(messages))
    })
  },
  {
    name: "delivers some twice",
    caughtBy: ["round-trip"],
    mutate: (driver) => ({
      ...driver,
      publish: everyNth(7, driver.publish, (messages) =>
        Effect.tap(driver.publish(messages), () => driver.publish(messages))
      )
    })
  },
  {
    name: "confirms a message now and then that it does not keep",
    caughtBy: ["round-trip", "many-to-many", "many-topics"],
    mutate: (driver) => ({
      ...driver,
      publish: everyNth(17, driver.publish, (messages) => Effect.succeed(confirmed(messages)))
    })
  },
  {
    name: "does not keep order by key",
    caughtBy: ["key-held", "order", "key-one-subscription"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, order: "none" })
    )
  },
  {
    name: "keeps order by key within a subscription, not between them",
    caughtBy: ["key-held", "key-one-subscription"],
    mutate: (driver) => {
      // Each subscription sees only the deliveries of its own: the others are as if they held nothing.
      const last = new Map<string, string>()
      return subscribing((inner, { order }, driver) => ({
        take: (max, maxBytes) =>
          Effect.tap(inner.take(max, maxBytes), (deliveries) =>
            order === "key"
              ? driver.publish(
                  deliveries.flatMap(({ message: { body, envelope } }) => {
                    if (envelope.key === undefined || last.get(envelope.id) !== undefined) return []
                    last.set(envelope.id, envelope.key)
                    // The same message once more without its place in the key: it runs beside what is held.
                    const copy = { ...envelope, key: undefined }
                    return [{ body, envelope: copy, destination: { _tag: "Topic", topic: envelope.topic } as const }]
                  })
                )
              : Effect.void
          )
      }))(driver)
    }
  },
  {
    name: "puts what is given back behind the rest of its key",
    caughtBy: ["take-after-giving-back", "retry-holds-key", "order"],
    mutate: subscribing((inner, { group, topic }, driver) => ({
      settle: (settlements) =>
        Effect.tap(
          inner.settle(
            settlements.map(
              ({ _tag, delivery, ...rest }): Settlement =>
                _tag === "Abandon" ? { _tag, delivery, ...rest } : { _tag: "Acknowledge", delivery }
            )
          ),
          () =>
            driver.publish(
              settlements.flatMap((settlement) => {
                if (settlement._tag === "Acknowledge" || settlement._tag === "Abandon") return []
                const { body, envelope } = settlement.delivery.message
                const again = settlement._tag === "Retry" ? settlement.envelope : envelope
                const delay = settlement._tag === "Retry" ? settlement.delay : 0
                return [{ body, envelope: again, delay, destination: { _tag: "Group", topic, group } as const }]
              })
            )
        )
    }))
  },
  {
    name: "forgets the delay of a message",
    caughtBy: ["delay", "delay-reopened"],
    mutate: publishing((message) => ({ ...message, delay: undefined }))
  },
  {
    name: "forgets the delay of a retry",
    caughtBy: ["backoff", "decisions"],
    mutate: settling((settlement) => (settlement._tag === "Retry" ? { ...settlement, delay: 0 } : settlement))
  },
  {
    name: "forgets priorities",
    caughtBy: ["priority"],
    mutate: publishing((message) => ({ ...message, priority: undefined }))
  },
  {
    name: "turns priorities around",
    caughtBy: ["priority"],
    mutate: publishing((message) => ({ ...message, priority: -(message.priority ?? 0) }))
  },
  {
    name: "retries with the old envelope",
    caughtBy: ["redelivery", "retry-one-group", "exhausted"],
    mutate: settling((settlement) =>
      settlement._tag === "Retry" ? { ...settlement, envelope: settlement.delivery.message.envelope } : settlement
    )
  },
  {
    name: "retries to all groups",
    caughtBy: ["retry-one-group"],
    mutate: subscribing((inner, { topic }, driver) => ({
      settle: (settlements) =>
        Effect.tap(
          inner.settle(
            settlements.map((settlement) =>
              settlement._tag === "Retry" ? { _tag: "Acknowledge", delivery: settlement.delivery } : settlement
            )
          ),
          () =>
            driver.publish(
              settlements.flatMap((settlement) =>
                settlement._tag === "Retry"
                  ? [
                      {
                        body: settlement.delivery.message.body,
                        envelope: settlement.envelope,
                        delay: settlement.delay,
                        destination: { _tag: "Topic", topic } as const
                      }
                    ]
                  : []
              )
            )
        )
    }))
  },
  {
    name: "loses what a closed subscription held",
    caughtBy: ["close-gives-back", "crashed"],
    mutate: (driver) => ({
      ...driver,
      subscribe: (options) =>
        Effect.gen(function* () {
          const inner = yield* driver.subscribe(options)
          const held = new Set<Delivery>()
          yield* Effect.addFinalizer(() =>
            Effect.ignore(inner.settle([...held].map((delivery) => ({ _tag: "Acknowledge", delivery }))))
          )
          return {
            ...inner,
            take: (max, maxBytes) =>
              Effect.tap(inner.take(max, maxBytes), (deliveries) =>
                Effect.sync(() => {
                  for (const delivery of deliveries) held.add(delivery)
                })
              )
          }
        })
    })
  },
  {
    name: "keeps what a closed subscription held",
    caughtBy: ["close-gives-back", "crashed"],
    mutate: (driver) => {
      const forgotten = Scope.makeUnsafe()
      return { ...driver, subscribe: (options) => Scope.provide(driver.subscribe(options), forgotten) }
    }
  },
  {
    name: "loses what an interrupted take was handed",
    caughtBy: ["interrupted-take"],
    mutate: subscribing((inner) => ({
      take: (max, maxBytes) =>
        Effect.flatMap(inner.take(max, maxBytes), (deliveries) =>
          Effect.onInterrupt(Effect.as(Effect.sleep(1), deliveries), () =>
            Effect.ignore(inner.settle(deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery }))))
          )
        )
    }))
  },
  {
    name: "hands over more than its credit",
    caughtBy: ["credit"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, credit: 1000 })
    )
  },
  {
    name: "takes no notice of another credit",
    caughtBy: ["credit"],
    mutate: subscribing(() => ({ setCredit: () => Effect.void }))
  },
  {
    name: "hands over more than max",
    caughtBy: ["take-limits"],
    mutate: subscribing((inner) => ({ take: (max, maxBytes) => inner.take(max * 2, maxBytes) }))
  },
  {
    name: "takes no notice of maxBytes",
    caughtBy: ["take-limits"],
    mutate: subscribing((inner) => ({ take: (max) => inner.take(max, Number.MAX_SAFE_INTEGER) }))
  },
  {
    name: "takes an interrupted settlement for done",
    caughtBy: ["settle-interrupted"],
    mutate: subscribing((inner) => {
      const begun = new WeakSet<Delivery>()
      return {
        settle: (settlements) =>
          Effect.suspend(() => {
            if (settlements.every(({ delivery }) => begun.has(delivery))) {
              return Effect.succeed(settlements.map(() => "Settled" as const))
            }
            for (const { delivery } of settlements) begun.add(delivery)
            return Effect.andThen(Effect.yieldNow, inner.settle(settlements))
          })
      }
    })
  },
  {
    name: "fails when it is asked to settle again",
    caughtBy: ["settle-twice"],
    mutate: subscribing((inner) => {
      const settled = new WeakSet<Delivery>()
      return {
        settle: (settlements) =>
          settlements.some(({ delivery }) => settled.has(delivery))
            ? Effect.fail(
                new Broker.BrokerError({
                  broker: "mutant",
                  operation: "settle",
                  reason: new Broker.Rejected({ code: "Refused", detail: "unknown delivery" })
                })
              )
            : Effect.tap(inner.settle(settlements), () =>
                Effect.sync(() => {
                  for (const { delivery } of settlements) settled.add(delivery)
                })
              )
      }
    })
  },
  {
    name: "says that it has settled what it has lost",
    caughtBy: ["late-settlement"],
    mutate: subscribing((inner) => ({
      settle: (settlements) => Effect.map(inner.settle(settlements), (answers) => answers.map(() => "Settled"))
    }))
  },
  {
    name: "says that it renews, and does not",
    caughtBy: ["renewal"],
    mutate: subscribing((_, { lease }) => ({
      renew: (deliveries) =>
        Effect.clockWith((clock) =>
          Effect.succeed(deliveries.map(() => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000 + lease))
        )
    }))
  },
  {
    name: "never ends a lease",
    caughtBy: ["lost-lease", "late-settlement"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, lease: 1_000_000 })
    )
  },
  {
    name: "counts no delivery twice",
    caughtBy: ["crashed"],
    mutate: subscribing((inner) => {
      const originals = new WeakMap<Delivery, Delivery>()
      const original = (delivery: Delivery) => originals.get(delivery) ?? delivery
      return {
        take: (max, maxBytes) =>
          Effect.map(inner.take(max, maxBytes), (deliveries) =>
            deliveries.map((delivery) => {
              const told = { ...delivery, deliveries: 1 }
              originals.set(told, delivery)
              return told
            })
          ),
        settle: (settlements) =>
          inner.settle(settlements.map((settlement) => ({ ...settlement, delivery: original(settlement.delivery) }))),
        renew: (deliveries) => inner.renew(deliveries.map(original))
      }
    })
  }
]
