/** Leases: renewed while a message is held, and what happens when one is lost. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect } from "effect"
import { TestClock } from "effect/testing"
import { Consumer, type Driver } from "millrace"
import { balanced, changedSubscription, gate, Numbers, onMemory, publish, scopedInTime, settle } from "./support.ts"

/** A handler that waits for ever and notes why it was stopped. */
const noting = () => {
  const causes: Array<Cause.Cause<unknown>> = []
  return { causes, wait: Effect.onError(Effect.never, (cause) => Effect.sync(() => causes.push(cause))) }
}

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
    const stuck = changedSubscription((subscription) => ({ ...subscription, renew: () => Effect.never }))
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
    const takenAway = changedSubscription((subscription) => ({
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
    const late = changedSubscription((subscription) => ({
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

  it.effect("that is lost tells the handler so also where there is a timeout", () =>
    Effect.gen(function* () {
      const { causes, wait } = noting()
      const options = { group: "g", lease: "3 seconds", timeout: "1 hour" } as const
      yield* Consumer.make(Numbers, () => wait, options)
      yield* Consumer.makeBatch(Numbers, () => wait, { ...options, group: "batches", size: 1, linger: "1 second" })
      yield* publish(1)
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(causes.map(Consumer.isLeaseLost), [true, true])
    }).pipe(
      scopedInTime,
      Effect.provide(changedSubscription((subscription) => ({ ...subscription, renew: () => Effect.never })))
    )
  )

  it.effect("is given up in time although the driver cannot be interrupted", () =>
    Effect.gen(function* () {
      const { causes, wait } = noting()
      yield* Consumer.make(Numbers, () => wait, { group: "g", lease: "30 seconds" })
      yield* publish(1)
      yield* TestClock.adjust("29 seconds")
      assert.isTrue(Consumer.isLeaseLost(causes[0] ?? Cause.empty))
    }).pipe(
      scopedInTime,
      Effect.provide(
        changedSubscription((subscription) => ({ ...subscription, renew: () => Effect.uninterruptible(Effect.never) }))
      )
    )
  )

  describe("of which little is left when the message comes", () => {
    const short = (change: (subscription: Driver.Subscription) => Partial<Driver.Subscription>) =>
      changedSubscription((subscription) => ({
        ...subscription,
        // Each message has waited for 27 seconds in the driver.
        take: (max, bytes) =>
          Effect.map(subscription.take(max, bytes), (deliveries) => {
            for (const delivery of deliveries)
              Object.assign(delivery, { leaseEndsAt: (delivery.leaseEndsAt ?? 0) - 27_000 })
            return deliveries
          }),
        ...change(subscription)
      }))

    it.effect("is renewed at once", () =>
      Effect.gen(function* () {
        const { causes, wait } = noting()
        const consumer = yield* Consumer.make(Numbers, () => wait, { group: "g", lease: "30 seconds" })
        yield* TestClock.adjust("1 second")
        yield* publish(1)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(causes, [])
        assert.deepInclude(yield* balanced(consumer), { running: 1 })
      }).pipe(scopedInTime, Effect.provide(short(() => ({}))))
    )

    it.effect("is given up in time where it cannot be renewed", () =>
      Effect.gen(function* () {
        const { causes, wait } = noting()
        yield* Consumer.make(Numbers, () => wait, { group: "g", lease: "30 seconds" })
        yield* TestClock.adjust("1 second")
        yield* publish(1)
        yield* settle
        yield* TestClock.adjust("400 millis")
        assert.strictEqual(causes.length, 0)
        yield* TestClock.adjust("200 millis")
        assert.strictEqual(causes.length, 1)
      }).pipe(scopedInTime, Effect.provide(short(() => ({ renew: () => Effect.never }))))
    )
  })

  it.effect("that is lost again and again behind a busy key does not keep other keys out", () => {
    let taken: ReadonlyArray<Driver.Delivery> = []
    const losing = changedSubscription((subscription) => ({
      ...subscription,
      // All but the first are taken away at each renewal.
      renew: (deliveries) =>
        Effect.map(subscription.renew(deliveries), (ends) =>
          ends.map((end, i) => {
            taken = taken.length === 0 ? deliveries : taken
            return deliveries[i]?.message.envelope.key === "a" && deliveries[i] !== taken[0] ? "Lost" : end
          })
        )
    }))
    return Effect.gen(function* () {
      const one = yield* gate
      const handled: Array<number> = []
      const consumer = yield* Consumer.make(
        Numbers,
        ({ key, n }) => (key === "a" ? one.pass : Effect.sync(() => handled.push(n))),
        { group: "g", order: "key", concurrency: 2, prefetch: 6, lease: "3 seconds", shutdownDeadline: 0 }
      )
      for (let n = 0; n < 4; n++) yield* publish(n, "a")
      // Lost, they come again when their lease ends at the broker.
      yield* TestClock.adjust("1 minute")
      for (let n = 4; n < 8; n++) yield* publish(n, "b")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(handled, [4, 5, 6, 7])
      yield* balanced(consumer)
      yield* one.open
    }).pipe(scopedInTime, Effect.provide(losing))
  })
})
