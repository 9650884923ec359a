/** A faulty broker does what it says that it did, again with the same seed, and no more when it is switched off. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { Driver } from "millrace"
import { Memory } from "millrace/memory"
import { FaultyBroker } from "millrace/testing"
import { driver, idOf, message, subscribe, take, takeOne } from "../brokers/support.ts"

const broker = (rates: FaultyBroker.RatesByOperation, options: Partial<FaultyBroker.Options> = {}) => {
  const faulty = FaultyBroker.make({ seed: 1, rates, ...options })
  return Effect.map(Effect.provide(driver, faulty.layer(Memory.layer())), (driver) => ({ driver, faulty }))
}

const outcomes = (driver: Driver.Driver, calls: number) =>
  Effect.forEach(
    Array.from({ length: calls }, (_, index) => message(String(index))),
    (message) => Effect.map(Effect.exit(driver.publish([message])), Exit.isSuccess)
  )

const subscribed = (driver: Driver.Driver) =>
  Effect.map(driver.backlog({ topic: "t", group: "g" }), ({ waiting }) => waiting)

describe("FaultyBroker", () => {
  it.effect("the same seed gives the same faults, whatever other operations do; another seed gives others", () =>
    Effect.gen(function* () {
      const rates = { publish: { failBefore: 0.3 }, backlog: { failBefore: 0.5 } }
      const first = yield* broker(rates)
      const again = yield* broker(rates)
      const other = yield* broker(rates, { seed: 2 })
      const expected = yield* outcomes(first.driver, 200)
      yield* Effect.forEach([1, 2, 3], () => Effect.exit(subscribed(again.driver)))
      assert.deepStrictEqual(yield* outcomes(again.driver, 200), expected)
      assert.notDeepEqual(yield* outcomes(other.driver, 200), expected)
      const failed = expected.filter((succeeded) => !succeeded).length
      assert.isTrue(failed > 30 && failed < 90, `${failed} of 200 at a rate of 0.3`)
      assert.deepStrictEqual(yield* first.faulty.counts, { publish: { calls: 200, failBefore: failed } })
    })
  )

  it.effect("rates that cannot be are defects, of the layer and of setRates", () =>
    Effect.gen(function* () {
      const { faulty } = yield* broker({ publish: { failBefore: 0.1, failAfter: 0.2, slow: 0.7 } })
      for (const wrong of [{ failBefore: 1.5 }, { failAfter: -0.1 }, { slow: Number.NaN }, { lose: 0.6, slow: 0.6 }]) {
        for (const attempt of [faulty.setRates({ publish: wrong }), Effect.asVoid(broker({ all: wrong }))]) {
          const defect = yield* Effect.flip(Effect.catchDefect(attempt, (defect) => Effect.fail(defect)))
          assert.include(String(defect), "must be from 0 to 1 and at most 1 together")
        }
      }
    })
  )

  it.effect("failBefore has not happened, failAfter has; both say what they are", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({})
      yield* driver.declare({ topic: "t", groups: ["g"] })
      yield* faulty.setRates({ publish: { failBefore: 1 } })
      const before = yield* Effect.flip(driver.publish([message("1")]))
      assert.strictEqual(before.reason._tag, "Unavailable")
      assert.deepInclude(before, { operation: "publish", topic: "t", broker: "memory" })
      assert.deepStrictEqual(before.ids, ["1"])
      assert.match(before.message, /call 1 of publish goes wrong: failBefore \(seed 1\)/)
      assert.strictEqual(yield* subscribed(driver), 0)
      yield* faulty.setRates({ publish: { failAfter: 1 } })
      assert.strictEqual((yield* Effect.flip(driver.publish([message("1")])))._tag, "BrokerError")
      assert.strictEqual(yield* subscribed(driver), 1)
    })
  )

  it.effect("what hangs ends by interruption, or after its time; what is slow happens then", () =>
    Effect.gen(function* () {
      const forever = yield* broker({ publish: { hangBefore: 1 } })
      const stuck = yield* Effect.forkChild(forever.driver.publish([message("1")]), { startImmediately: true })
      yield* TestClock.adjust("1 day")
      assert.isUndefined(stuck.pollUnsafe())
      yield* Fiber.interrupt(stuck)

      const limited = yield* broker({ publish: { hangAfter: 1 } }, { hang: "10 seconds" })
      yield* limited.driver.declare({ topic: "t", groups: ["g"] })
      const late = yield* Effect.forkChild(Effect.exit(limited.driver.publish([message("1")])), {
        startImmediately: true
      })
      assert.strictEqual(yield* subscribed(limited.driver), 1)
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(Exit.isFailure(yield* Fiber.join(late)))

      const slow = yield* broker({ publish: { slow: 1 } }, { slow: "3 seconds" })
      yield* slow.driver.declare({ topic: "t", groups: ["g"] })
      const sending = yield* Effect.forkChild(slow.driver.publish([message("1")]), { startImmediately: true })
      yield* TestClock.adjust(2_999)
      assert.strictEqual(yield* subscribed(slow.driver), 0)
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* Fiber.join(sending)).length, 1)
    })
  )

  it.effect("a take that failed after it happened gives back what it was handed", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({})
      const subscription = yield* subscribe(driver, { order: "key" })
      yield* driver.publish(["1", "2", "3"].map((id) => message(id, { key: "k" })))
      yield* faulty.setRates({ take: { failAfter: 1 } })
      yield* Effect.flip(subscription.take(2, 100))
      yield* faulty.setRates({ take: { hangAfter: 1 } })
      const hanging = yield* Effect.forkChild(subscription.take(9, 100), { startImmediately: true })
      yield* TestClock.adjust(1)
      yield* Fiber.interrupt(hanging)
      yield* faulty.disable
      const again = yield* subscription.take(9, 100)
      assert.deepStrictEqual(again.map(idOf), ["1", "2", "3"])
      assert.deepStrictEqual(
        again.map(({ deliveries }) => deliveries),
        [1, 1, 1]
      )
      assert.deepStrictEqual((yield* faulty.counts).take, { calls: 2, failAfter: 1, hangAfter: 1 })
    })
  )

  it.effect("of a batch, some are confirmed, some fail and are there, some fail and are not", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({ publish: { partial: 1 } })
      const subscription = yield* subscribe(driver)
      const sent = Array.from({ length: 60 }, (_, index) => message(String(index)))
      const answers = yield* driver.publish(sent)
      yield* faulty.disable
      const received = new Set(yield* take(subscription))
      const confirmed = sent
        .filter((_, index) => answers[index]?._tag === "Confirmed")
        .map(({ envelope }) => envelope.id)
      assert.isTrue(confirmed.every((id) => received.has(id)))
      assert.isAbove(confirmed.length, 5)
      assert.isAbove(received.size, confirmed.length + 5)
      assert.isAbove(60, received.size + 5)
    })
  )

  it.effect("settlements: some happen and all fail; settled again, all are", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({ settle: { partial: 1 }, renew: { partial: 1 } })
      const subscription = yield* subscribe(driver)
      yield* driver.publish(Array.from({ length: 30 }, (_, index) => message(String(index))))
      const deliveries = yield* subscription.take(30, 1_000)
      assert.strictEqual((yield* Effect.flip(subscription.renew(deliveries)))._tag, "BrokerError")
      const settlements = deliveries.map((delivery) => ({ _tag: "Acknowledge" as const, delivery }))
      const error = yield* Effect.flip(subscription.settle(settlements))
      assert.strictEqual(error.ids?.length, 30)
      const { inFlight } = yield* driver.backlog({ topic: "t", group: "g" })
      assert.isTrue(inFlight !== undefined && inFlight > 3 && inFlight < 27, `${inFlight} of 30 are left`)
      yield* faulty.disable
      assert.deepStrictEqual(new Set(yield* subscription.settle(settlements)), new Set(["Settled"]))
    })
  )

  it.effect("a lease that is lost is lost for good, and somebody else has the message", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({ renew: { lose: 1 } })
      const a = yield* subscribe(driver)
      yield* driver.publish([message("1")])
      const delivery = yield* takeOne(a)
      assert.deepStrictEqual(yield* a.renew([delivery]), ["Lost"])
      yield* faulty.disable
      const b = yield* subscribe(driver)
      assert.deepStrictEqual(yield* take(b), ["1"])
      assert.deepStrictEqual(yield* a.renew([delivery]), ["Lost"])
      assert.deepStrictEqual(yield* a.settle([{ _tag: "Acknowledge", delivery }]), ["Lost"])
    })
  )

  it.effect("a subscription that failed after it was opened is closed again", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({ subscribe: { failAfter: 1 } })
      yield* Effect.flip(subscribe(driver, { order: "key" }))
      yield* faulty.setRates({ subscribe: { hangAfter: 1 } })
      const scope = yield* Scope.make()
      const hanging = yield* Effect.forkChild(Scope.provide(subscribe(driver, { order: "key" }), scope), {
        startImmediately: true
      })
      yield* Fiber.interrupt(hanging)
      yield* faulty.disable
      const subscription = yield* subscribe(driver, { order: "key" })
      yield* driver.publish([message("1", { key: "k" })])
      assert.deepStrictEqual(yield* take(subscription), ["1"])
    })
  )

  it.effect("dead letters: reading breaks off, moving happens or not", () =>
    Effect.gen(function* () {
      const { driver, faulty } = yield* broker({})
      const group = { topic: "t", group: "g" }
      const letters = driver.deadLetters
      if (letters?.move === undefined) return assert.fail("it can browse and move")
      yield* driver.declare({ topic: "t", groups: ["g"] })
      yield* driver.publish(["1", "2"].map((id) => message(id, { destination: { _tag: "DeadLetters", ...group } })))
      const read: Array<string> = []
      const reading = Stream.runForEach(letters.read(group), ({ position }) => Effect.sync(() => read.push(position)))
      yield* faulty.setRates({ readLetters: { partial: 1 } })
      yield* Effect.flip(reading)
      assert.strictEqual(read.length, 1)
      yield* faulty.setRates({ readLetters: { failAfter: 1 }, all: { failAfter: 1 } })
      yield* Effect.flip(reading)
      assert.strictEqual(read.length, 3)
      const back = message("1", { destination: { _tag: "Group", ...group } })
      yield* Effect.flip(letters.move(group, read[0] ?? "", back))
      yield* Effect.flip(letters.remove(group, ["none"]))
      yield* Effect.flip(letters.groups("t"))
      yield* faulty.disable
      assert.strictEqual(yield* Stream.runCount(letters.read(group)), 1)
      assert.deepStrictEqual((yield* faulty.counts).moveLetter, { calls: 1, failAfter: 1 })
    })
  )
})
