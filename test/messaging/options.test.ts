/** What the options of a consumer promise: bounds, rates, attempts, health, spans. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Option, References, Schedule, Schema, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, type Driver, Topic } from "millrace"
import { Memory } from "millrace/memory"
import { envelope } from "../brokers/support.ts"
import { Busy, balanced, gate, Numbers, onMemory, publish, settle, settleAll } from "./support.ts"

/** The memory broker, changed. */
const changed = (change: (driver: Driver.Driver) => Driver.Driver) =>
  Layer.effect(Broker.Broker, Effect.map(Broker.Broker, change)).pipe(Layer.provide(Memory.layer()))

const cut = new Broker.BrokerError({
  broker: "test",
  operation: "take",
  reason: new Broker.Unavailable({ detail: "the line was cut" })
})

describe("a consumer", () => {
  it.effect("holds no more messages than its prefetch, however many wait", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const consumer = yield* Consumer.make(Numbers, () => one.pass, { group: "g", concurrency: 2, prefetch: 5 })
        yield* Numbers.publishAll(Array.from({ length: 100 }, (_, n) => ({ n })))
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { received: 5, running: 2, queued: 3 })
        yield* one.open
        yield* settleAll
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 100 })
      })
    )
  )

  it.effect("holds no more bytes than its bound, and always one message", () =>
    onMemory(
      Effect.gen(function* () {
        const Text = Topic.make("text", { schema: Schema.String, version: 1 })
        const one = yield* gate
        const consumer = yield* Consumer.make(Text, () => one.pass, {
          group: "g",
          concurrency: 100,
          prefetchBytes: 10_000
        })
        yield* Text.publish("x".repeat(50_000))
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { received: 1, bytes: 50_002 })
        yield* one.open
        yield* settle
        const two = yield* gate
        yield* consumer.drain()
        const next = yield* Consumer.make(Text, () => two.pass, { group: "g", concurrency: 100, prefetchBytes: 10_000 })
        yield* Text.publishAll(Array.from({ length: 100 }, () => "x".repeat(998)))
        yield* settle
        const { bytes } = yield* balanced(next)
        assert.isAtLeast(bytes, 9_000)
        assert.isAtMost(bytes, 11_000)
        yield* two.open
        yield* settleAll
        assert.deepInclude(yield* balanced(next), { acknowledged: 100, bytes: 0 })
      })
    )
  )

  it.effect("begins no more handlers than its rate allows", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.void, {
          group: "g",
          rateLimit: { limit: 2, interval: "1 second" },
          shutdownDeadline: 0
        })
        yield* Numbers.publishAll(Array.from({ length: 10 }, (_, n) => ({ n })))
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 2 })
        yield* TestClock.adjust("1 second")
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 4 })
      })
    )
  )

  it.effect("runs as many handlers as it is told to, also while it runs", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const consumer = yield* Consumer.make(Numbers, () => one.pass, { group: "g", concurrency: 1 })
        yield* Numbers.publishAll(Array.from({ length: 10 }, (_, n) => ({ n })))
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { running: 1 })
        yield* consumer.resize(4)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { running: 4 })
        yield* one.open
      })
    )
  )

  it.effect("takes more when it may run more", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const consumer = yield* Consumer.make(Numbers, () => one.pass, { group: "g", concurrency: 4, prefetch: 6 })
        yield* Numbers.publishAll(Array.from({ length: 5 }, (_, n) => ({ n })))
        yield* settle
        yield* Numbers.publishAll(Array.from({ length: 5 }, (_, n) => ({ n })))
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { running: 4, queued: 1 })
        yield* consumer.resize(6)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { running: 6, queued: 0 })
        yield* one.open
      })
    )
  )

  it.effect("ends a schedule without an end at maxAttempts", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Busy({ after: 1 })), {
          group: "g",
          maxAttempts: 4,
          onError: { Busy: Consumer.retry(Schedule.spaced("1 second")) }
        })
        yield* publish(1)
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* balanced(consumer), { received: 4, retried: 3, deadLettered: 1 })
      })
    )
  )

  it.effect("counts the time of a schedule from the first failure, over restarts", () =>
    onMemory(
      Effect.gen(function* () {
        const attempts: Array<number> = []
        const within = Schedule.max([Schedule.spaced("4 seconds"), Schedule.during("10 seconds")])
        const start = Consumer.make(
          Numbers,
          (_, { attempt }) => {
            attempts.push(attempt)
            return Effect.fail(new Busy({ after: 1 }))
          },
          { group: "g", onError: { Busy: Consumer.retry(within) } }
        )
        for (let i = 0; i < 6; i++) {
          const member = yield* start
          if (i === 0) yield* publish(1)
          yield* TestClock.adjust("4 seconds")
          yield* settle
          yield* member.drain()
        }
        // At 0, 4, 8 and 12 seconds; 12 is beyond the 10.
        assert.deepStrictEqual(attempts, [1, 2, 3, 4])
      })
    )
  )
})

describe("the health of a consumer", () => {
  it.effect("says that the broker does not answer, and that it does again", () => {
    const state = { broken: true }
    const layer = changed((driver) => ({
      ...driver,
      subscribe: (options) =>
        Effect.map(driver.subscribe(options), (subscription) => ({
          ...subscription,
          take: (max, bytes) => (state.broken ? Effect.fail(cut) : subscription.take(max, bytes))
        }))
    }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* publish(1)
      yield* settle
      assert.deepInclude(yield* consumer.health, { status: "unreachable", problem: cut })
      state.broken = false
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual((yield* consumer.health).status, "consuming")
      assert.deepInclude(yield* balanced(consumer), { acknowledged: 1 })
    }).pipe(Effect.provide(layer))
  })

  it.effect("says that it is stalled when messages wait and none come, and a new subscription is the cure", () => {
    let subscriptions = 0
    const layer = changed((driver) => ({
      ...driver,
      subscribe: (options) =>
        Effect.map(driver.subscribe(options), (subscription) =>
          ++subscriptions === 1 ? { ...subscription, take: () => Effect.never } : subscription
        )
    }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g", stallAfter: "10 seconds" })
      yield* TestClock.adjust("1 minute")
      // Nothing waits, so nothing is wrong.
      assert.strictEqual(subscriptions, 1)
      const driver = yield* Broker.Broker
      yield* driver.publish([
        {
          envelope: envelope("later", { topic: "numbers" }),
          body: new TextEncoder().encode('{"n":0}'),
          destination: { _tag: "Topic", topic: "numbers" },
          delay: 3_600_000
        }
      ])
      yield* TestClock.adjust("1 minute")
      // Its time has not come.
      assert.strictEqual(subscriptions, 1)
      yield* publish(1)
      yield* TestClock.adjust("20 seconds")
      yield* settle
      assert.strictEqual(subscriptions, 2)
      assert.deepInclude(yield* balanced(consumer), { acknowledged: 1 })
      assert.strictEqual((yield* consumer.health).status, "consuming")
    }).pipe(Effect.provide(layer))
  })
})

describe("a handler", () => {
  it.effect("runs in a span that is linked to the publisher's, where somebody traces", () =>
    onMemory(
      Effect.gen(function* () {
        const spans: Array<Tracer.NativeSpan> = []
        const tracer = Tracer.make({
          span: (options) => {
            const span = new Tracer.NativeSpan(options)
            spans.push(span)
            return span
          }
        })
        yield* Effect.gen(function* () {
          yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
          yield* Effect.withSpan(publish(1), "place order")
          yield* settle
        }).pipe(Effect.withTracer(tracer), Effect.scoped)
        const published = spans.find(({ name }) => name === "place order")
        const processed = spans.find(({ name }) => name === "process numbers")
        assert.strictEqual(processed?.kind, "consumer")
        assert.strictEqual(processed?.links[0]?.span.spanId, published?.spanId)
        assert.isTrue(Option.isNone(processed?.parent ?? Option.none()))
        assert.strictEqual(processed?.attributes.get("messaging.consumer.group.name"), "g")
      })
    )
  )

  it.effect("has the services and references of the program that started the consumer", () =>
    onMemory(
      Effect.gen(function* () {
        const annotations: Array<unknown> = []
        yield* Consumer.make(
          Numbers,
          () => Effect.map(References.CurrentLogAnnotations, (found) => annotations.push(found.shop)),
          { group: "g" }
        ).pipe(Effect.annotateLogs("shop", "vienna"))
        yield* publish(1)
        yield* settle
        assert.deepStrictEqual(annotations, ["vienna"])
      })
    )
  )
})
