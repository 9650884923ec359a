/** What the tests of topics, consumers and dead letters share. */
import { assert } from "@effect/vitest"
import { type Context, Effect, Exit, Fiber, Latch, Layer, Logger, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, type Driver, Topic } from "millrace"
import { Memory } from "millrace/memory"

export class Busy extends Schema.TaggedError<Busy>()("Busy", { after: Schema.Number }) {}
export class Refused extends Schema.TaggedError<Refused>()("Refused", {}) {}

/** A topic of numbered messages, keyed where they have a key. */
export const Numbers = Topic.make("numbers", {
  schema: Schema.Struct({ n: Schema.Number, key: Schema.optional(Schema.String) }),
  version: 1
})

export const publish = (n: number, key?: string) => Numbers.publish(key === undefined ? { n } : { n, key }, { key })

/** The accounting of a consumer, after checking that it is balanced. */
export const balanced = (consumer: { readonly accounting: Effect.Effect<Consumer.ConsumerAccounting> }) =>
  Effect.map(consumer.accounting, (accounting) => {
    assert.isTrue(Consumer.isBalanced(accounting), JSON.stringify(accounting))
    return accounting
  })

/** Lets fibers go on that can. */
export const settle = TestClock.adjust(0).pipe(Effect.repeat({ times: 3 }))
/** The same for what takes many turns. */
export const settleAll = TestClock.adjust(0).pipe(Effect.repeat({ times: 200 }))

/** On a broker of its own. */
export const onMemory = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Memory.layer())

/** A handler that waits until it is let go, and tells that it has begun. */
export const gate = Effect.sync(() => {
  const open = Latch.makeUnsafe()
  const begun = Latch.makeUnsafe()
  return { pass: Effect.andThen(begun.open, open.await), begun: begun.await, open: open.open }
})

// The key of the broker, with what the memory driver can.
const key = Broker.Broker as unknown as Context.Service<Broker.Broker<Memory.Abilities>, Driver.Driver>

/** The memory broker with its driver changed. */
export const changedDriver = (change: (driver: Driver.Driver) => Driver.Driver) =>
  Layer.effect(key, Effect.map(key, change)).pipe(Layer.provide(Memory.layer()))

/** The memory broker with its subscriptions changed. */
export const changedSubscription = (change: (subscription: Driver.Subscription) => Driver.Subscription) =>
  changedDriver((driver) => ({
    ...driver,
    subscribe: (options) => Effect.map(driver.subscribe(options), change)
  }))

/** Waits for an effect while the test clock goes on; fails after ten minutes, and does not wait for what cannot be interrupted. */
export const endsInTime = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkDetach(effect, { startImmediately: true })
    for (let i = 0; i < 600 && fiber.pollUnsafe() === undefined; i++) yield* TestClock.adjust("1 second")
    if (fiber.pollUnsafe() === undefined) return assert.fail("it has not ended after ten minutes")
    return yield* Fiber.join(fiber)
  })

/** With a scope that is closed while the test clock goes on. */
export const scopedInTime = <A, E, R>(effect: Effect.Effect<A, E, R | Scope.Scope>) =>
  Effect.gen(function* () {
    const scope = yield* Scope.make()
    const exit = yield* Effect.exit(Scope.provide(effect, scope))
    yield* endsInTime(Scope.close(scope, Exit.void))
    return yield* exit
  })

/** What is logged, line by line. */
export const logged = Effect.sync(() => {
  const lines: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    lines.push(`${logLevel} ${[message].flat().map(String).join(" ")}`)
  })
  return { lines, layer: Logger.layer([logger]) }
})
