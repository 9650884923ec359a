/** Publishing: what a message says of itself, and how it can fail. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, type Envelope, Source, Topic } from "millrace"
import { Memory } from "millrace/memory"
import { changedDriver, Numbers, onMemory, publish } from "./support.ts"

/** The envelope of the next message of the topic. */
const next = Effect.gen(function* () {
  const got = yield* Deferred.make<Envelope.Envelope>()
  yield* Consumer.make(Numbers, (_, message) => Deferred.succeed(got, message), { group: "g" })
  return Deferred.await(got)
})

const failing = (
  published: Effect.Effect<
    ReadonlyArray<{ readonly _tag: "Confirmed" } | { readonly _tag: "Failed"; readonly error: Broker.BrokerError }>,
    Broker.BrokerError
  >
) =>
  Layer.effect(
    Broker.Broker,
    Effect.map(Broker.Broker, (driver) => ({ ...driver, publish: () => published }))
  ).pipe(Layer.provide(Memory.layer()))

const unavailable = new Broker.BrokerError({
  broker: "test",
  operation: "publish",
  topic: "numbers",
  reason: new Broker.Unavailable({ detail: "the line was cut" })
})

describe("a published message", () => {
  it.effect("carries its envelope", () =>
    onMemory(
      Effect.gen(function* () {
        yield* TestClock.setTime(1_000)
        const message = yield* next
        const { id } = yield* Numbers.publish(
          { n: 1 },
          { key: "k", headers: { "x-ünïcode": "☃ snow" }, correlationId: "c-1" }
        ).pipe(Effect.withSpan("place order"), Effect.provideService(Source, "/shop"))
        const envelope = yield* message
        assert.deepInclude(envelope, {
          id,
          topic: "numbers",
          source: "/shop",
          key: "k",
          version: 1,
          timestamp: 1_000,
          contentType: "application/json",
          attempt: 1,
          correlationId: "c-1",
          replays: 0
        })
        assert.deepStrictEqual(envelope.headers, { "x-ünïcode": "☃ snow" })
        assert.match(envelope.traceparent ?? "", /^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/)
      })
    )
  )

  it.effect("takes the topic's key, unless another is given", () =>
    onMemory(
      Effect.gen(function* () {
        const Keyed = Topic.make("numbers", {
          schema: Schema.Struct({ n: Schema.Number }),
          version: 1,
          key: ({ n }) => `key ${n}`
        })
        const keys: Array<string | undefined> = []
        yield* Consumer.make(Keyed, (_, { key }) => Effect.sync(() => keys.push(key)), { group: "g", order: "key" })
        yield* Keyed.publishAll([{ n: 1 }])
        yield* Keyed.publish({ n: 2 }, { key: "other" })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(keys, ["key 1", "other"])
      })
    )
  )

  it.effect("with a delay comes no earlier", () =>
    onMemory(
      Effect.gen(function* () {
        const got: Array<number> = []
        yield* Consumer.make(Numbers, ({ n }) => Effect.sync(() => got.push(n)), { group: "g" })
        yield* Numbers.publish({ n: 1 }, { delay: "1 hour" })
        yield* TestClock.adjust("59 minutes")
        assert.deepStrictEqual(got, [])
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(got, [1])
      })
    )
  )
})

describe("publishAll", () => {
  it.effect("takes id, key and headers from each value", () =>
    onMemory(
      Effect.gen(function* () {
        const got: Array<readonly [id: string, key: string | undefined, header: string | undefined]> = []
        yield* Consumer.make(Numbers, (_, { headers, id, key }) => Effect.sync(() => got.push([id, key, headers.n])), {
          group: "g"
        })
        const receipts = yield* Numbers.publishAll([{ n: 1 }, { n: 2 }], {
          id: ({ n }) => `id ${n}`,
          key: ({ n }) => `key ${n}`,
          headers: ({ n }) => ({ n: String(n) })
        })
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(
          receipts.map(({ id }) => id),
          ["id 1", "id 2"]
        )
        assert.deepStrictEqual(got, [
          ["id 1", "key 1", "1"],
          ["id 2", "key 2", "2"]
        ])
      })
    )
  )
})

describe("a topic", () => {
  it.effect("is declared once, also where another of its name is used in turn", () => {
    let declared = 0
    const counting = changedDriver((driver) => ({
      ...driver,
      declare: (topology) => {
        declared++
        return driver.declare(topology)
      }
    }))
    return Effect.gen(function* () {
      const Other = Topic.make("numbers", { schema: Schema.Struct({ n: Schema.Number }), version: 1 })
      for (let n = 0; n < 5; n++) {
        yield* publish(n)
        yield* Other.publish({ n })
      }
      assert.strictEqual(declared, 2)
    }).pipe(Effect.provide(counting))
  })

  it.effect(
    "is declared once for all who publish first at the same time, also where one of them is interrupted",
    () => {
      let declared = 0
      let refuses = false
      const slow = changedDriver((driver) => ({
        ...driver,
        declare: (topology) =>
          Effect.suspend(() => {
            declared++
            return Effect.andThen(Effect.sleep(100), refuses ? Effect.fail(unavailable) : driver.declare(topology))
          })
      }))
      return Effect.gen(function* () {
        const first = yield* Effect.forkChild(publish(0), { startImmediately: true })
        const others = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 50 }, (_, n) => publish(n)),
            { concurrency: 50 }
          )
        )
        yield* TestClock.adjust(50)
        assert.strictEqual(declared, 1)
        yield* Fiber.interrupt(first)
        yield* TestClock.adjust(100)
        assert.strictEqual((yield* Fiber.join(others)).length, 50)
        assert.strictEqual(declared, 1)

        refuses = true
        const Other = Topic.make("others", { schema: Schema.Struct({ n: Schema.Number }), version: 1 })
        const exits = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 50 }, (_, n) => Effect.exit(Other.publish({ n }))),
            { concurrency: 50 }
          )
        )
        yield* TestClock.adjust(100)
        assert.isTrue((yield* Fiber.join(exits)).every(Exit.isFailure))
        assert.strictEqual(declared, 2)
        refuses = false
        const again = yield* Effect.forkChild(Other.publish({ n: 1 }))
        yield* TestClock.adjust(100)
        yield* Fiber.join(again)
        assert.strictEqual(declared, 3)
      }).pipe(Effect.provide(slow))
    }
  )
})

describe("publishing fails", () => {
  let calls = 0

  it.effect("with EncodeError where the payload does not match the schema, and nothing is sent", () =>
    onMemory(
      Effect.gen(function* () {
        const Small = Topic.make("small", {
          schema: Schema.Struct({ n: Schema.Number.check(Schema.isLessThan(10)) }),
          version: 1
        })
        const error = yield* Effect.flip(Small.publishAll([{ n: 1 }, { n: 11 }]))
        assert.strictEqual(error._tag, "EncodeError")
        assert.include(error.message, 'topic "small"')
        const driver = yield* Broker.Broker
        yield* driver.declare({ topic: "small", groups: ["g"] })
        assert.strictEqual((yield* driver.backlog({ topic: "small", group: "g" })).waiting, 0)
      })
    )
  )

  it.effect("with EncodeError where a header is reserved", () =>
    onMemory(
      Effect.gen(function* () {
        for (const name of ["ce_id", "traceparent", "content-type", "millrace-x", "cloudEvents:id", ""]) {
          const error = yield* Effect.flip(Numbers.publish({ n: 1 }, { headers: { [name]: "x" } }))
          assert.strictEqual(error._tag, "EncodeError", name)
        }
      })
    )
  )

  it.effect("with EncodeError where an id or key is no text", () =>
    onMemory(
      Effect.gen(function* () {
        const Keyed = Topic.make("numbers", {
          schema: Schema.Struct({ n: Schema.Number }),
          version: 1,
          // What a program without types may answer.
          key: ({ n }) => n as unknown as string
        })
        const errors = [
          yield* Effect.flip(Keyed.publish({ n: 1 })),
          yield* Effect.flip(Keyed.publishAll([{ n: 1 }])),
          yield* Effect.flip(Numbers.publish({ n: 1 }, { id: "" }))
        ]
        assert.deepStrictEqual(
          errors.map(({ _tag }) => _tag),
          ["EncodeError", "EncodeError", "EncodeError"]
        )
        assert.include(errors[0]?.message, "its key must be a string, got number")
      })
    )
  )

  it.effect("as a defect where a delay never ends or a priority is no number", () =>
    onMemory(
      Effect.gen(function* () {
        const exits = [
          yield* Effect.exit(Numbers.publish({ n: 1 }, { delay: "Infinity" })),
          yield* Effect.exit(Numbers.publish({ n: 1 }, { delay: -1 })),
          yield* Effect.exit(Numbers.publish({ n: 1 }, { priority: Number.NaN }))
        ]
        for (const exit of exits) assert.include(String(exit), "InvalidOption")
      })
    )
  )

  it.effect("with TooLarge before the broker is asked", () =>
    Effect.gen(function* () {
      const Text = Topic.make("text", { schema: Schema.String, version: 1 })
      const error = yield* Effect.flip(Text.publish("x".repeat(2000)))
      assert.deepInclude(error, { _tag: "BrokerError", topic: "text" })
      assert.strictEqual(
        error._tag === "BrokerError" && error.reason._tag === "Rejected" && error.reason.code,
        "TooLarge"
      )
      assert.include(error.message, "2002 bytes")
    }).pipe(Effect.provide(Memory.layer({ maxMessageBytes: 1000 })))
  )

  it.effect("with the broker's own error", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Effect.flip(publish(1)), unavailable)
      assert.include(unavailable.message, 'test: publish on "numbers" could not be confirmed: the line was cut')
    }).pipe(Effect.provide(failing(Effect.succeed([{ _tag: "Failed", error: unavailable }]))))
  )

  it.effect("in a batch for each message by itself", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Numbers.publishAll([{ n: 1 }, { n: 2 }]))
      if (error._tag !== "PublishIncomplete") return assert.fail(error._tag)
      assert.strictEqual(error.confirmed.length, 1)
      assert.deepStrictEqual(
        error.failed.map(({ index }) => index),
        [1]
      )
      assert.include(error.message, "1 of 2 messages")
    }).pipe(Effect.provide(failing(Effect.succeed([{ _tag: "Confirmed" }, { _tag: "Failed", error: unavailable }]))))
  )

  it.effect("where the driver answers nothing about a message, for nobody knows whether it is there", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(publish(1))
      assert.strictEqual(error._tag === "BrokerError" && error.reason._tag, "Unavailable")
      const all = yield* Effect.flip(Numbers.publishAll([{ n: 1 }, { n: 2 }]))
      assert.strictEqual(all._tag === "PublishIncomplete" && all.failed.length, 1)
    }).pipe(Effect.provide(failing(Effect.sync(() => (calls++ === 0 ? [] : [{ _tag: "Confirmed" }])))))
  )

  it.effect("as a defect where the topic itself is wrong", () =>
    onMemory(
      Effect.gen(function* () {
        const schema = Schema.String
        for (const wrong of [
          Topic.make("", { schema, version: 1 }),
          Topic.make("t", { schema, version: 0 }),
          Topic.make("t", { schema, version: 1.5 }),
          Topic.make("t", { schema, version: 1, upcast: { 1: Topic.upcast(schema, (x) => x) } })
        ]) {
          const exit = yield* Effect.exit(wrong.publish("x"))
          assert.include(String(exit), "InvalidOption")
        }
      })
    )
  )
})

describe("the groups of a topic", () => {
  const Orders = Topic.make("orders", { schema: Schema.String, version: 1, groups: ["sms", "stock"] })
  const first = (group: string) =>
    Effect.gen(function* () {
      const got = yield* Deferred.make<string>()
      yield* Consumer.make(Orders, (order) => Deferred.succeed(got, order), { group })
      return Deferred.await(got)
    })

  it.effect("are there when one of their consumers has started: the others miss nothing", () =>
    onMemory(
      Effect.gen(function* () {
        const sms = yield* first("sms")
        yield* Orders.publish("o-1")
        assert.strictEqual(yield* sms, "o-1")
        assert.strictEqual(yield* yield* first("stock"), "o-1")
      })
    )
  )

  it.effect("are there when the topic was declared", () =>
    onMemory(
      Effect.gen(function* () {
        yield* Orders.declare
        const driver = yield* Broker.Broker
        assert.deepStrictEqual(yield* driver.groups("orders"), ["sms", "stock"])
      })
    )
  )
})
