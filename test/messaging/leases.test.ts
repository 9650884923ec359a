/** Leases: renewed while a message is held, and what happens when one is lost. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, type Driver } from "millrace"
import { Memory } from "millrace/memory"
import { balanced, gate, Numbers, onMemory, publish, settle } from "./support.ts"

/** The memory broker, with its subscriptions changed. */
const withSubscription = (change: (subscription: Driver.Subscription) => Driver.Subscription) =>
  Layer.effect(
    Broker.Broker,
    Effect.map(Broker.Broker, (driver) => ({
      ...driver,
      subscribe: (options: Driver.SubscribeOptions) => Effect.map(driver.subscribe(options), change)
    }))
  ).pipe(Layer.provide(Memory.layer()))

describe("a lease", () => {
  it.effect("is renewed while the handler runs and while the message waits its turn", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const handled: Array<number> = []
        const consumer = yield* Consumer.make(
          Numbers,
          ({ n }) =>
            Effect.andThen(
              one.pass,
              Effect.sync(() => handled.push(n))
            ),
          { group: "g", concurrency: 1, lease: "3 seconds" }
        )
        yield* publish(1)
        yield* publish(2)
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* balanced(consumer), { received: 2, running: 1, queued: 1, lost: 0 })
        yield* one.open
        yield* settle
        assert.deepStrictEqual(handled, [1, 2])
      })
    )
  )

  it.effect("that cannot be renewed interrupts the handler at its end, with the cause", () => {
    const causes: Array<Cause.Cause<unknown>> = []
    const stuck = withSubscription((subscription) => ({ ...subscription, renew: () => Effect.never }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(
        Numbers,
        (_, message) =>
          message.attempt === 1 && causes.length === 0
            ? Effect.onError(Effect.never, (cause) => Effect.sync(() => causes.push(cause)))
            : Effect.void,
        { group: "g", lease: "3 seconds" }
      )
      const { id } = yield* publish(1)
      yield* TestClock.adjust("2700 millis")
      assert.strictEqual(causes.length, 0)
      // A little before the end, so that it has stopped when another begins.
      yield* TestClock.adjust("200 millis")
      assert.strictEqual(causes.length, 1)
      yield* TestClock.adjust("100 millis")
      yield* settle
      const [cause = Cause.empty] = causes
      assert.isTrue(Consumer.isLeaseLost(cause))
      assert.deepInclude(Consumer.leaseLostOf(cause), { id, topic: "numbers", group: "g", reason: "expired" })
      assert.deepInclude(yield* balanced(consumer), { lost: 1, acknowledged: 1, retried: 0, deadLettered: 0 })
    }).pipe(Effect.provide(stuck))
  })

  it.effect("that the broker says is lost ends a waiting message without a run", () => {
    const takenAway = withSubscription((subscription) => ({
      ...subscription,
      renew: (deliveries) => Effect.succeed(deliveries.map(() => "Lost" as const))
    }))
    return Effect.gen(function* () {
      const one = yield* gate
      const consumer = yield* Consumer.make(Numbers, () => one.pass, { group: "g", concurrency: 1, lease: "3 seconds" })
      yield* publish(1)
      yield* publish(2)
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.deepInclude(yield* balanced(consumer), { lost: 2, running: 0, queued: 0 })
    }).pipe(Effect.provide(takenAway))
  })

  it.effect("of somebody else makes a late settlement count as lost", () => {
    const late = withSubscription((subscription) => ({
      ...subscription,
      settle: (settlements) => Effect.succeed(settlements.map(() => "Lost" as const))
    }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* publish(1)
      yield* settle
      assert.deepInclude(yield* balanced(consumer), { received: 1, lost: 1, acknowledged: 0 })
    }).pipe(Effect.provide(late))
  })
})
