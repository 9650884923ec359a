/** Drivers that do one thing wrong, each around a right one, and the cases of the suite that must notice. */
import { Context, Effect, Layer, Scope } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { Memory } from "millrace/memory"
import type { Fixture } from "millrace/testing"

type Delivery = Driver.Delivery
type Settlement = Driver.Settlement
type Subscription = Driver.Subscription

export interface Mutant {
  readonly name: string
  /** Cases that notice, by their ids. */
  readonly caughtBy: ReadonlyArray<string>
  readonly mutate: (driver: Driver.Driver) => Driver.Driver
  /** What it says of itself, where that is not what the broker in memory says. */
  readonly says?: Partial<Pick<Fixture, "abilities" | "withoutGroup" | "transactions">>
  readonly memory?: Memory.Options<"default">
}

const everything: Fixture["abilities"] = {
  delay: "native",
  priority: "native",
  order: "native",
  replay: "native",
  browse: "native",
  results: "none"
}

/** A fixture of the broker in memory, wrong in one way. */
export const fixtureOf = ({ memory, mutate, says }: Mutant): Fixture => {
  const layer = Memory.layer({ store: Memory.makeStore(), ...memory })
  return {
    layer: Layer.flatMap(layer, (context) => Layer.succeed(Broker.Broker, mutate(Context.get(context, Broker.Broker)))),
    abilities: everything,
    lease: 150,
    patience: "1 second",
    ...says
  }
}

const publishing =
  (change: (message: Driver.OutgoingMessage) => Driver.OutgoingMessage) =>
  (driver: Driver.Driver): Driver.Driver => ({ ...driver, publish: (messages) => driver.publish(messages.map(change)) })

const subscribing =
  (
    change: (inner: Subscription, options: Driver.SubscribeOptions, driver: Driver.Driver) => Partial<Subscription>,
    before: (options: Driver.SubscribeOptions) => Driver.SubscribeOptions = (options) => options
  ) =>
  (driver: Driver.Driver): Driver.Driver => ({
    ...driver,
    subscribe: (options) =>
      Effect.map(driver.subscribe(before(options)), (inner) => ({ ...inner, ...change(inner, options, driver) }))
  })

const settling = (change: (settlement: Settlement) => Settlement) =>
  subscribing((inner) => ({ settle: (settlements) => inner.settle(settlements.map(change)) }))

/** Deliveries that are told otherwise than they are. Settled under what they were. */
const receiving = (change: (message: Driver.RawMessage) => Driver.RawMessage) =>
  subscribing((inner) => {
    const originals = new WeakMap<Delivery, Delivery>()
    const original = (delivery: Delivery) => originals.get(delivery) ?? delivery
    return {
      take: (max, maxBytes) =>
        Effect.map(inner.take(max, maxBytes), (deliveries) =>
          deliveries.map((delivery) => {
            const told = { ...delivery, message: change(delivery.message) }
            originals.set(told, delivery)
            return told
          })
        ),
      settle: (settlements) =>
        inner.settle(settlements.map((settlement) => ({ ...settlement, delivery: original(settlement.delivery) }))),
      renew: (deliveries) => inner.renew(deliveries.map(original))
    }
  })

const letters =
  (change: (inner: Driver.DeadLetterStore) => Partial<Driver.DeadLetterStore>) =>
  (driver: Driver.Driver): Driver.Driver =>
    driver.deadLetters === undefined
      ? driver
      : { ...driver, deadLetters: { ...driver.deadLetters, ...change(driver.deadLetters) } }

const confirmed = (messages: ReadonlyArray<unknown>) => messages.map(() => ({ _tag: "Confirmed" }) as const)

/** Every n-th call is another. */
const everyNth = <A extends ReadonlyArray<unknown>, R>(n: number, usual: (...args: A) => R, odd: (...args: A) => R) => {
  let calls = 0
  return (...args: A) => (++calls % n === 0 ? odd(...args) : usual(...args))
}

const lacks = (ability: keyof Fixture["abilities"]) => ({ abilities: { ...everything, [ability]: "none" } as const })

/** Says that it lacks the ability, and takes no notice when it is asked for it all the same. */
const saysNo =
  (ability: keyof Fixture["abilities"], then: (driver: Driver.Driver) => Driver.Driver) =>
  (driver: Driver.Driver): Driver.Driver =>
    then({ ...driver, abilities: { ...driver.abilities, [ability]: "none" } })

export const mutants: ReadonlyArray<Mutant> = [
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
    caughtBy: ["release", "crashed"],
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
  },
  {
    name: "loses headers",
    caughtBy: ["round-trip", "unicode", "whole-envelope"],
    mutate: receiving(({ body, envelope }) => ({ body, envelope: { ...envelope, headers: {} } }))
  },
  {
    name: "writes headers as latin 1",
    caughtBy: ["unicode"],
    mutate: receiving(({ body, envelope }) => ({
      body,
      envelope: {
        ...envelope,
        headers: Object.fromEntries(
          Object.entries(envelope.headers).map(([name, value]) => [
            name,
            Buffer.from(value, "latin1").toString("latin1")
          ])
        )
      }
    }))
  },
  {
    name: "turns an empty key into none",
    caughtBy: ["unicode"],
    mutate: receiving(({ body, envelope }) => ({ body, envelope: { ...envelope, key: envelope.key || undefined } }))
  },
  {
    name: "cuts payloads at 64 KiB",
    caughtBy: ["bytes"],
    mutate: receiving(({ body, envelope }) => ({ envelope, body: body.subarray(0, 65_536) }))
  },
  {
    name: "reads payloads as text",
    caughtBy: ["bytes", "undecodable"],
    mutate: receiving(({ body, envelope }) => ({
      envelope,
      body: new TextEncoder().encode(new TextDecoder().decode(body))
    }))
  },
  {
    name: "takes a payload that is larger than it says",
    caughtBy: ["too-large"],
    mutate: (driver) => ({ ...driver, maxMessageBytes: 100_000 })
  },
  {
    name: "fails a whole batch for one message that is too large",
    caughtBy: ["too-large"],
    memory: { maxMessageBytes: 100_000 },
    mutate: (driver) => ({
      ...driver,
      publish: (messages) =>
        Effect.map(driver.publish(messages), (answers) => {
          const failed = answers.find(({ _tag }) => _tag === "Failed")
          return failed === undefined ? answers : answers.map(() => failed)
        })
    })
  },
  {
    name: "joins topic and group with a point",
    caughtBy: ["names"],
    mutate: (driver) => {
      const joined = new Map<string, Driver.Group>()
      const first = (group: Driver.Group) => {
        const name = `${group.topic}.${group.group}`
        const known = joined.get(name) ?? group
        joined.set(name, known)
        return known
      }
      const store = driver.deadLetters
      return {
        ...driver,
        publish: (messages) =>
          driver.publish(
            messages.map((message) =>
              message.destination._tag === "DeadLetters"
                ? { ...message, destination: { _tag: "DeadLetters", ...first(message.destination) } }
                : message
            )
          ),
        deadLetters: store && { ...store, read: (group, after) => store.read(first(group), after) }
      }
    }
  },
  {
    name: "begins a new group at the beginning, unasked",
    caughtBy: ["new-group"],
    mutate: (driver) => ({
      ...driver,
      declare: ({ topic }) => driver.declare({ topic, groups: [] }),
      subscribe: (options) => driver.subscribe({ ...options, replay: options.replay ?? "earliest" })
    })
  },
  {
    name: "takes no notice of replay",
    caughtBy: ["replay-old", "replay-known-group"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, replay: undefined })
    )
  },
  {
    name: "replays from the beginning when asked for a time",
    caughtBy: ["replay-old"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, replay: options.replay && "earliest" })
    )
  },
  {
    name: "loses in silence what no group has asked for",
    caughtBy: ["without-group"],
    memory: { retain: 1 },
    mutate: (driver) => ({
      ...driver,
      publish: (messages) => Effect.map(driver.publish(messages), () => confirmed(messages)),
      subscribe: (options) => driver.subscribe({ ...options, replay: undefined })
    })
  },
  {
    name: "guesses that nothing waits",
    caughtBy: ["backlog"],
    mutate: (driver) => ({
      ...driver,
      backlog: () => Effect.succeed({ waiting: 0, delayed: 0, inFlight: 0, oldest: undefined })
    })
  },
  {
    name: "counts what is held as waiting",
    caughtBy: ["backlog"],
    mutate: (driver) => ({
      ...driver,
      backlog: (group) =>
        Effect.map(driver.backlog(group), (backlog) => ({
          ...backlog,
          waiting: (backlog.waiting ?? 0) + (backlog.inFlight ?? 0)
        }))
    })
  },
  {
    name: "keeps a group that was removed",
    caughtBy: ["list-groups"],
    mutate: (driver) => ({ ...driver, removeGroup: () => Effect.void })
  },
  {
    name: "begins a topic anew when it is declared again",
    caughtBy: ["declare-again"],
    mutate: (driver) => ({
      ...driver,
      declare: (topology) =>
        Effect.andThen(
          Effect.forEach(topology.groups, (group) => driver.removeGroup({ topic: topology.topic, group })),
          driver.declare(topology)
        )
    })
  },
  {
    name: "keeps duplicates although it says that it does not",
    caughtBy: ["dedupe"],
    memory: { dedupe: "1 hour" },
    mutate: (driver) => ({
      ...driver,
      publish: (messages) => Effect.flatMap(Effect.succeed(messages), (all) => driver.publish(all.map(anotherId)))
    })
  },
  {
    name: "drops duplicates although it says that it keeps them",
    caughtBy: ["dedupe"],
    memory: { dedupe: "1 hour" },
    mutate: (driver) => ({ ...driver, dedupe: "none" })
  },
  {
    name: "delivers dead letters",
    caughtBy: ["destinations", "exhausted"],
    mutate: publishing((message) =>
      message.destination._tag === "DeadLetters"
        ? { ...message, destination: { ...message.destination, _tag: "Group" } }
        : message
    )
  },
  {
    name: "sends what is for one group to all",
    caughtBy: ["destinations"],
    mutate: publishing((message) =>
      message.destination._tag === "Group"
        ? { ...message, destination: { ...message.destination, _tag: "Topic" } }
        : message
    )
  },
  {
    name: "moves a letter to all groups",
    caughtBy: ["replay"],
    mutate: letters(({ move }) => ({
      ...(move && {
        move: (group: Driver.Group, position: string, message: Driver.OutgoingMessage) =>
          move(group, position, { ...message, destination: { _tag: "Topic", topic: group.topic } })
      })
    }))
  },
  {
    name: "keeps the letters that it has moved",
    caughtBy: ["two-replays", "replay"],
    mutate: (driver) =>
      letters(() => ({
        move: (_, __, message) => Effect.map(driver.publish([message]), ([answer]) => answer ?? { _tag: "Gone" })
      }))(driver)
  },
  {
    name: "does not remove letters",
    caughtBy: ["purge"],
    mutate: letters(() => ({ remove: (_, positions) => Effect.succeed(positions.length) }))
  },
  {
    name: "loses letters with their group",
    caughtBy: ["purge"],
    mutate: (driver) => {
      const removed = new Set<string>()
      return letters((inner) => ({
        groups: (topic) => Effect.map(inner.groups(topic), (names) => names.filter((name) => !removed.has(name)))
      }))({
        ...driver,
        removeGroup: (group) =>
          Effect.andThen(
            Effect.sync(() => removed.add(group.group)),
            driver.removeGroup(group)
          )
      })
    }
  },
  {
    name: "says no to delay, and delivers at once when asked",
    caughtBy: ["refuses-delay"],
    says: lacks("delay"),
    mutate: saysNo(
      "delay",
      publishing((message) => ({ ...message, delay: undefined }))
    )
  },
  {
    name: "says no to priority, and takes no notice when asked",
    caughtBy: ["refuses-priority"],
    says: lacks("priority"),
    mutate: saysNo(
      "priority",
      publishing((message) => ({ ...message, priority: undefined }))
    )
  },
  {
    name: "says no to order, and subscribes all the same",
    caughtBy: ["refuses-order"],
    says: lacks("order"),
    mutate: saysNo("order", (driver) => driver)
  },
  {
    name: "says no to replay, and subscribes all the same",
    caughtBy: ["refuses-replay"],
    says: lacks("replay"),
    mutate: saysNo("replay", (driver) => driver)
  },
  {
    name: "says no to browse, and browses",
    caughtBy: ["declared", "refuses-browse"],
    says: lacks("browse"),
    mutate: saysNo("browse", (driver) => driver)
  },
  {
    name: "says that it can what it cannot",
    caughtBy: ["declared"],
    mutate: (driver) => ({ ...driver, abilities: { ...driver.abilities, results: "native" } })
  },
  {
    name: "shows what a transaction has not committed",
    caughtBy: ["rolled-back", "late-commit"],
    says: { transactions: { run: (effect) => effect, overlap: true } },
    mutate: (driver) => driver
  }
]

let ids = 0
const anotherId = (message: Driver.OutgoingMessage): Driver.OutgoingMessage =>
  message.destination._tag === "Topic"
    ? { ...message, envelope: { ...message.envelope, id: `${message.envelope.id}-${++ids}` } }
    : message
