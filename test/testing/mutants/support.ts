/** What makes a driver do one thing wrong. */
import { Context, Effect, Layer } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { Memory } from "millrace/memory"
import type { Fixture } from "millrace/testing"

export type Delivery = Driver.Delivery
export type Settlement = Driver.Settlement
export type Subscription = Driver.Subscription

export interface Mutant {
  readonly name: string
  /** Cases that notice, by their ids. */
  readonly caughtBy: ReadonlyArray<string>
  readonly mutate: (driver: Driver.Driver) => Driver.Driver
  /** What it says of itself, where that is not what the broker in memory says. */
  readonly says?: Partial<Pick<Fixture, "abilities" | "withoutGroup" | "transactions">>
  readonly memory?: Memory.Options<"default">
}

export const everything: Fixture["abilities"] = {
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

export const publishing =
  (change: (message: Driver.OutgoingMessage) => Driver.OutgoingMessage) =>
  (driver: Driver.Driver): Driver.Driver => ({ ...driver, publish: (messages) => driver.publish(messages.map(change)) })

export const subscribing =
  (
    change: (inner: Subscription, options: Driver.SubscribeOptions, driver: Driver.Driver) => Partial<Subscription>,
    before: (options: Driver.SubscribeOptions) => Driver.SubscribeOptions = (options) => options
  ) =>
  (driver: Driver.Driver): Driver.Driver => ({
    ...driver,
    subscribe: (options) =>
      Effect.map(driver.subscribe(before(options)), (inner) => ({ ...inner, ...change(inner, options, driver) }))
  })

export const settling = (change: (settlement: Settlement) => Settlement) =>
  subscribing((inner) => ({ settle: (settlements) => inner.settle(settlements.map(change)) }))

/** Deliveries that are told otherwise than they are. Settled under what they were. */
export const receiving = (change: (message: Driver.RawMessage) => Driver.RawMessage) =>
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

export const letters =
  (change: (inner: Driver.DeadLetterStore) => Partial<Driver.DeadLetterStore>) =>
  (driver: Driver.Driver): Driver.Driver =>
    driver.deadLetters === undefined
      ? driver
      : { ...driver, deadLetters: { ...driver.deadLetters, ...change(driver.deadLetters) } }

export const confirmed = (messages: ReadonlyArray<unknown>) => messages.map(() => ({ _tag: "Confirmed" }) as const)

/** Every n-th call is another. */
export const everyNth = <A extends ReadonlyArray<unknown>, R>(
  n: number,
  usual: (...args: A) => R,
  odd: (...args: A) => R
) => {
  let calls = 0
  return (...args: A) => (++calls % n === 0 ? odd(...args) : usual(...args))
}

export const lacks = (ability: keyof Fixture["abilities"]) => ({
  abilities: { ...everything, [ability]: "none" } as const
})

/** Says that it lacks the ability, and takes no notice when it is asked for it all the same. */
export const saysNo =
  (ability: keyof Fixture["abilities"], then: (driver: Driver.Driver) => Driver.Driver) =>
  (driver: Driver.Driver): Driver.Driver =>
    then({ ...driver, abilities: { ...driver.abilities, [ability]: "none" } })

let ids = 0
export const anotherId = (message: Driver.OutgoingMessage): Driver.OutgoingMessage =>
  message.destination._tag === "Topic"
    ? { ...message, envelope: { ...message.envelope, id: `${message.envelope.id}-${++ids}` } }
    : message
