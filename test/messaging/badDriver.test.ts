/** A driver that hangs, dies or answers late: closing always ends, nothing stops without a word, and health tells the truth. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, type Driver } from "millrace"
import {
  Busy,
  balanced,
  changedDriver,
  changedSubscription,
  endsInTime,
  gate,
  logged,
  Numbers,
  onMemory,
  publish,
  scopedInTime,
  settle
} from "./support.ts"

const forever = Effect.uninterruptible(Effect.never)

const failing = (operation: string, reason: Broker.BrokerError["reason"]) =>
  Effect.fail(new Broker.BrokerError({ broker: "test", operation, topic: "numbers", reason }))
const cut = new Broker.Unavailable({ detail: "the line was cut" })

describe("closing ends although", () => {
  const faults: Record<string, (subscription: Driver.Subscription) => Partial<Driver.Subscription>> = {
    "setCredit hangs": () => ({ setCredit: () => forever }),
    "setCredit dies": () => ({ setCredit: () => Effect.die("a bug") }),
    "setCredit throws": () => ({
      setCredit: () => {
        throw new Error("a bug")
      }
    }),
    "settle hangs": () => ({ settle: () => Effect.never }),
    "settle hangs and cannot be interrupted": () => ({ settle: () => forever }),
    "settle dies": () => ({ settle: () => Effect.die("a bug") }),
    "take hangs and cannot be interrupted": () => ({ take: () => forever }),
    "take dies": () => ({ take: () => Effect.die("a bug") }),
    "renew hangs and cannot be interrupted": () => ({ renew: () => forever }),
    "what is lost dies": () => ({ lost: Stream.die("a bug") })
  }
  for (const [name, fault] of Object.entries(faults)) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.sleep("1 second"), { group: "g", concurrency: 1 })
        yield* Numbers.publishAll([{ n: 1 }, { n: 2 }])
        yield* TestClock.adjust("10 seconds")
        const report = yield* endsInTime(consumer.drain())
        const { received, settling, queued, running } = yield* balanced(consumer)
        assert.strictEqual(settling + queued + running, 0)
        assert.strictEqual(report.accounting.received, received)
      }).pipe(
        scopedInTime,
        Effect.provide(changedSubscription((subscription) => ({ ...subscription, ...fault(subscription) })))
      )
    )
  }

  it.effect("the subscription does not end", () => {
    const endless = changedDriver((driver) => ({
      ...driver,
      subscribe: (options) => Effect.tap(driver.subscribe(options), () => Effect.addFinalizer(() => forever))
    }))
    return Effect.gen(function* () {
      const { layer, lines } = yield* logged
      yield* Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
        assert.isBelow((yield* endsInTime(consumer.drain())).elapsed, 6_000)
      }).pipe(scopedInTime, Effect.provide(layer))
      assert.match(lines.join("\n"), /The end of the subscription of consumer numbers\/g has not ended within 5000 ms/)
    }).pipe(Effect.provide(endless))
  })

  it.effect("onShutdown does not end", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g", onShutdown: () => forever })
        yield* endsInTime(consumer.drain())
      }).pipe(scopedInTime)
    )
  )

  it.effect("another deadline was given first: the earlier wins", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.never, { group: "g" })
        yield* publish(1)
        yield* settle
        const first = yield* Effect.forkChild(consumer.drain({ deadline: "1 hour" }))
        yield* TestClock.adjust("1 minute")
        assert.isUndefined(first.pollUnsafe())
        const report = yield* endsInTime(consumer.drain({ deadline: "1 second" }))
        assert.deepInclude(report, { released: 1 })
        assert.isBelow(report.elapsed, 62_000)
      }).pipe(scopedInTime)
    )
  )
})

describe("a driver that answers neither renewals nor settlements", () => {
  it.effect("is not asked all the time, and no handler is said to be interrupted that has ended", () =>
    Effect.gen(function* () {
      const { layer, lines } = yield* logged
      yield* Effect.gen(function* () {
        yield* Consumer.make(Numbers, () => Effect.void, { group: "g", lease: "3 seconds" })
        yield* publish(1)
        yield* TestClock.adjust("20 seconds")
      }).pipe(scopedInTime, Effect.provide(layer))
      assert.notInclude(lines.join("\n"), "could not renew the leases")
      assert.isBelow(lines.length, 20)
    }).pipe(
      Effect.provide(
        changedSubscription((subscription) => ({
          ...subscription,
          renew: () => Effect.never,
          settle: () => Effect.never
        }))
      )
    )
  )
})

describe("a driver that dies", () => {
  it.effect("is told of, and work goes on when it works again", () => {
    let dies = 2
    const dying = changedSubscription((subscription) => ({
      ...subscription,
      take: (max, bytes) => (dies-- > 0 ? Effect.die(new Error("a bug")) : subscription.take(max, bytes)),
      settle: (settlements) => (dies-- > -4 ? Effect.die(new Error("a bug")) : subscription.settle(settlements))
    }))
    return Effect.gen(function* () {
      const { layer, lines } = yield* logged
      yield* Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
        yield* publish(1)
        yield* settle
        const { problem, status } = yield* consumer.health
        assert.strictEqual(status, "unreachable")
        assert.include(problem?.message, "bug of the driver: Error: a bug")
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 1 })
        assert.strictEqual((yield* consumer.health).status, "consuming")
      }).pipe(scopedInTime, Effect.provide(layer))
      assert.deepStrictEqual(
        lines.map((line) => line.split(";")[0]?.split(" BrokerError")[0]),
        [
          "Warn Consumer numbers/g cannot take messages",
          "Info Consumer numbers/g can take messages again",
          "Warn Consumer numbers/g cannot settle",
          "Info Consumer numbers/g can settle again"
        ]
      )
    }).pipe(Effect.provide(dying))
  })
})

describe("health", () => {
  it.effect("is good again when the broker is, although no message comes", () => {
    let calls = 0
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* settle
      assert.strictEqual((yield* consumer.health).status, "unreachable")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* consumer.health).status, "consuming")
    }).pipe(
      scopedInTime,
      Effect.provide(
        changedSubscription((subscription) => ({
          ...subscription,
          take: (max, bytes) => (calls++ === 0 ? failing("take", cut) : subscription.take(max, bytes))
        }))
      )
    )
  })

  it.effect("says that the broker does not answer a settlement", () =>
    Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* publish(1)
      yield* TestClock.adjust("90 seconds")
      const { problem, status } = yield* consumer.health
      assert.strictEqual(status, "unreachable")
      assert.match(problem?.message ?? "", /settle on "numbers" could not be confirmed: no answer for \d\d s/)
    }).pipe(
      scopedInTime,
      Effect.provide(changedSubscription((subscription) => ({ ...subscription, settle: () => Effect.never })))
    )
  )

  it.effect("is over when the broker answers the settlement that it is asked for again", () => {
    let calls = 0
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* publish(1)
      yield* publish(2)
      yield* TestClock.adjust("90 seconds")
      assert.strictEqual((yield* consumer.health).status, "consuming")
      assert.deepInclude(yield* balanced(consumer), { acknowledged: 2, lost: 0, settling: 0 })
    }).pipe(
      scopedInTime,
      Effect.provide(
        changedSubscription((subscription) => ({
          ...subscription,
          settle: (settlements) => (calls++ === 0 ? Effect.never : subscription.settle(settlements))
        }))
      )
    )
  })

  it.effect("is over when the dead letter that was not answered is written again", () => {
    let calls = 0
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.die("a bug"), {
        group: "g",
        onDefect: Consumer.deadLetter
      })
      yield* publish(1)
      yield* TestClock.adjust("90 seconds")
      assert.deepInclude(yield* balanced(consumer), { deadLettered: 1 })
    }).pipe(
      scopedInTime,
      Effect.provide(
        changedDriver((driver) => ({
          ...driver,
          publish: (messages) =>
            messages[0]?.destination._tag === "DeadLetters" && calls++ === 0 ? Effect.never : driver.publish(messages)
        }))
      )
    )
  })

  it.effect("says that the broker does not answer at all", () =>
    Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* TestClock.adjust("90 seconds")
      assert.strictEqual((yield* consumer.health).status, "unreachable")
    }).pipe(scopedInTime, Effect.provide(changedDriver((driver) => ({ ...driver, backlog: () => Effect.never }))))
  )

  it.effect("is not bad because a key waits for a retry", () => {
    let subscriptions = 0
    const counting = changedDriver((driver) => ({
      ...driver,
      subscribe: (options) => {
        subscriptions++
        return driver.subscribe(options)
      }
    }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Busy({ after: 1 })), {
        group: "g",
        order: "key",
        onError: { Busy: Consumer.delay("1 hour") }
      })
      yield* publish(1, "a")
      yield* publish(2, "a")
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(subscriptions, 1)
      assert.strictEqual((yield* consumer.health).status, "consuming")
    }).pipe(scopedInTime, Effect.provide(counting))
  })

  it.effect("is not bad because messages came just now, and what is held stays ours", () => {
    const answer = Deferred.makeUnsafe<void>()
    let subscriptions = 0
    const slow = changedDriver((driver) => ({
      ...driver,
      subscribe: (options) => {
        subscriptions++
        return driver.subscribe(options)
      },
      backlog: () => Effect.as(Deferred.await(answer), { waiting: 5, delayed: 0, inFlight: 0, oldest: 0 })
    }))
    return Effect.gen(function* () {
      const one = yield* gate
      const consumer = yield* Consumer.make(Numbers, () => one.pass, { group: "g", stallAfter: "10 seconds" })
      yield* TestClock.adjust("10 seconds")
      yield* publish(1)
      yield* one.begun
      yield* Deferred.succeed(answer, undefined)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(subscriptions, 1)
      yield* one.open
      yield* settle
      assert.deepInclude(yield* balanced(consumer), { acknowledged: 1, lost: 0 })
    }).pipe(scopedInTime, Effect.provide(slow))
  })
})

describe("a subscription that is refused", () => {
  it.effect("is replaced by a new one: the group had been removed", () =>
    onMemory(
      Effect.gen(function* () {
        const handled: Array<number> = []
        const consumer = yield* Consumer.make(Numbers, ({ n }) => Effect.sync(() => handled.push(n)), { group: "g" })
        const driver = yield* Broker.Broker
        yield* driver.removeGroup({ topic: "numbers", group: "g" })
        yield* settle
        assert.strictEqual((yield* consumer.health).status, "unreachable")
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual((yield* consumer.health).status, "consuming")
        yield* publish(1)
        yield* settle
        assert.deepStrictEqual(handled, [1])
      }).pipe(scopedInTime)
    )
  )
})

describe("credit", () => {
  it.effect("is what was last wanted, also where an earlier call is slow", () => {
    const credits: Array<number> = []
    let slow = true
    const late = changedSubscription((subscription) => ({
      ...subscription,
      setCredit: (credit) =>
        Effect.gen(function* () {
          if (slow) {
            slow = false
            yield* Effect.sleep("1 second")
          }
          credits.push(credit)
          yield* subscription.setCredit(credit)
        })
    }))
    return Effect.gen(function* () {
      const handled: Array<number> = []
      const consumer = yield* Consumer.make(Numbers, ({ n }) => Effect.sync(() => handled.push(n)), { group: "g" })
      yield* consumer.pause
      yield* consumer.resume
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(credits.at(-1), 64)
      yield* publish(1)
      yield* settle
      assert.deepStrictEqual(handled, [1])
    }).pipe(scopedInTime, Effect.provide(late))
  })
})
