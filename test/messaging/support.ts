/** What the tests of topics, consumers and dead letters share. */
import { assert } from "@effect/vitest"
import { Effect, Latch, Schema } from "effect"
import { TestClock } from "effect/testing"
import { Consumer, Topic } from "millrace"
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
