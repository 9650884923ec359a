/** One process, one file: what goes in comes out, once for each group, whole. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { acknowledge, consume, drain, filename, message, open, subscribe, take, textOf } from "./support.ts"

describe("sqlite driver", () => {
  it.live("publishes and consumes", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver)
      const answers = yield* driver.publish([message("t", "a"), message("t", "b")])
      assert.deepStrictEqual(answers, [{ _tag: "Confirmed" }, { _tag: "Confirmed" }])
      const taken = yield* take(subscription)
      assert.deepStrictEqual(taken.map(textOf), ["a", "b"])
      assert.deepStrictEqual(
        taken.map(({ deliveries }) => deliveries),
        [1, 1]
      )
      assert.deepStrictEqual(yield* driver.backlog({ topic: "t", group: "g" }), {
        waiting: 0,
        delayed: 0,
        inFlight: 2,
        oldest: undefined
      })
      assert.deepStrictEqual(yield* acknowledge(subscription, taken), ["Settled", "Settled"])
      assert.deepStrictEqual(yield* acknowledge(subscription, taken), ["Settled", "Settled"])
      assert.deepStrictEqual((yield* driver.backlog({ topic: "t", group: "g" })).inFlight, 0)
      assert.deepStrictEqual(yield* drain(subscription), [])
    })
  )

  it.live("keeps an envelope and a payload whole", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver, { topic: "ünï\u0000code", group: "\ud800" })
      const whole = message("ünï\u0000code", "", {
        envelope: {
          id: "id\u0000\ud800",
          key: "\uffff\ud800",
          source: "",
          version: 3,
          attempt: 1e20,
          timestamp: 1.5,
          contentType: "text/plain",
          traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          tracestate: "a=b",
          correlationId: "",
          headers: { "": "", ünï: "\u0000\ud800", __proto__x: "1" },
          history: {
            firstFailedAt: 5,
            attempts: [{ attempt: 1, at: 5, tag: "E", message: "m", host: "h:1" }]
          },
          death: { reason: "exhausted", cause: "c", at: 7 },
          replays: 2
        }
      })
      const large = { ...message("ünï\u0000code", ""), body: new Uint8Array(1_000_000).map((_, i) => i) }
      yield* driver.publish([whole, large])
      const [first, second] = yield* subscription.take(10, 10_000_000)
      assert.deepStrictEqual(first?.message.envelope, whole.envelope)
      assert.deepStrictEqual(first?.message.body, new Uint8Array(0))
      assert.deepStrictEqual(second?.message.body, large.body)
    })
  )

  it.live("gives each group everything, and a topic without groups keeps what comes", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      yield* driver.publish([message("t", "before")])
      assert.deepStrictEqual(yield* driver.groups("t"), [])
      const first = yield* subscribe(driver, { group: "first" })
      const second = yield* subscribe(driver, { group: "second" })
      yield* driver.publish([message("t", "after")])
      assert.deepStrictEqual((yield* consume(first, 2)).map(textOf), ["before", "after"])
      assert.deepStrictEqual((yield* consume(second, 1)).map(textOf), ["after"])
      assert.deepStrictEqual(yield* driver.groups("t"), ["first", "second"])
    })
  )

  it.live("groups declared together for a topic without any get each what it has kept", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      yield* driver.publish([message("t", "kept"), message("t", "too")])
      yield* driver.declare({ topic: "t", groups: [] })
      yield* driver.declare({ topic: "t", groups: ["a", "b"] })
      yield* driver.declare({ topic: "t", groups: ["a", "b"] })
      for (const group of ["a", "b"]) {
        assert.strictEqual((yield* driver.backlog({ topic: "t", group })).waiting, 2)
      }
      for (const group of ["a", "b"]) {
        const subscription = yield* subscribe(driver, { group })
        assert.deepStrictEqual((yield* consume(subscription, 2)).map(textOf), ["kept", "too"])
        assert.deepStrictEqual(yield* drain(subscription), [])
      }
    })
  )

  it.live("hands over no more than credit, max and bytes allow, but always one", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver, { credit: 3 })
      yield* driver.publish(Array.from({ length: 6 }, (_, i) => message("t", `m${i}`)))
      const two = yield* subscription.take(2, 1_000)
      assert.deepStrictEqual(two.map(textOf), ["m0", "m1"])
      assert.deepStrictEqual((yield* subscription.take(5, 1)).map(textOf), ["m2"])
      assert.deepStrictEqual(yield* drain(subscription), [])
      const waiting = yield* Effect.forkChild(take(subscription, 5), { startImmediately: true })
      yield* acknowledge(subscription, two)
      assert.deepStrictEqual((yield* Fiber.join(waiting)).map(textOf), ["m3", "m4"])
      yield* subscription.setCredit(0)
      assert.deepStrictEqual(yield* drain(subscription), [])
      yield* subscription.setCredit(10)
      assert.deepStrictEqual((yield* take(subscription)).map(textOf), ["m5"])
    })
  )

  it.live("releases at its place, and retries with a new envelope after a delay", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver)
      yield* driver.publish([message("t", "a"), message("t", "b"), message("t", "c")])
      const [a, b, c] = yield* take(subscription)
      if (a === undefined || b === undefined || c === undefined) return assert.fail("three were published")
      const again = { ...b.message.envelope, attempt: 2 }
      const answers = yield* subscription.settle([
        { _tag: "Release", delivery: c },
        { _tag: "Release", delivery: a },
        { _tag: "Retry", delivery: b, delay: 60, envelope: again }
      ])
      assert.deepStrictEqual(answers, ["Settled", "Settled", "Settled"])
      const back = yield* take(subscription)
      assert.deepStrictEqual(back.map(textOf), ["a", "c"])
      assert.deepStrictEqual(
        back.map(({ deliveries }) => deliveries),
        [1, 1]
      )
      assert.deepStrictEqual(yield* drain(subscription), [])
      const [retried] = yield* take(subscription)
      assert.deepStrictEqual(retried?.message.envelope, again)
    })
  )

  it.live("hands over higher priorities first, and delayed messages when they are due", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver)
      yield* driver.publish([
        message("t", "late", { delay: 80 }),
        message("t", "low", { priority: -1 }),
        message("t", "usual"),
        message("t", "high", { priority: 2.5 })
      ])
      assert.deepStrictEqual((yield* take(subscription)).map(textOf), ["high", "usual", "low"])
      const start = Date.now()
      assert.deepStrictEqual((yield* take(subscription)).map(textOf), ["late"])
      assert.isBelow(Date.now() - start, 500)
    })
  )

  it.live("says what waits: ready, delayed and handed out, and since when", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver)
      const at = (millis: number) => ({ envelope: { timestamp: Date.now() - millis } })
      yield* driver.publish([
        message("t", "delayed", { ...at(5_000), delay: 60_000 }),
        message("t", "high", { ...at(4_000), priority: 1 }),
        message("t", "usual", at(3_000)),
        message("t", "low", { ...at(2_000), priority: -1 })
      ])
      const waits = driver.backlog({ topic: "t", group: "g" })
      const before = yield* waits
      assert.deepInclude(before, { waiting: 4, inFlight: 0 })
      assert.approximately(before.oldest ?? Number.NaN, 5_000, 900)
      yield* take(subscription, 1)
      assert.deepInclude(yield* waits, { waiting: 3, inFlight: 1 })
      assert.deepStrictEqual(yield* driver.backlog({ topic: "t", group: "nobody" }), {
        waiting: 0,
        delayed: 0,
        inFlight: 0,
        oldest: undefined
      })
    })
  )

  it.live("closing a subscription gives back what it holds", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      yield* driver.publish([message("t", "a"), message("t", "b")])
      const held = yield* Effect.scoped(Effect.flatMap(subscribe(driver), take))
      assert.strictEqual(held.length, 2)
      const next = yield* subscribe(driver)
      assert.deepStrictEqual((yield* consume(next, 2)).map(textOf), ["a", "b"])
    })
  )

  it.live("keeps everything across a restart", () =>
    Effect.gen(function* () {
      const path = yield* filename
      yield* Effect.scoped(
        Effect.flatMap(open({ filename: path }), ({ driver }) =>
          driver.publish([message("t", "a"), message("t", "b", { delay: 10 })])
        )
      )
      const again = yield* open({ filename: path })
      const subscription = yield* subscribe(again.driver)
      assert.deepStrictEqual((yield* consume(subscription, 2)).map(textOf), ["a", "b"])
    })
  )
})
