/** Consuming: what a delivery is tied to, and how consumption goes on after whatever may happen to it. */
import { assert, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect, Exit, Fiber, Layer, Schedule, Schema, Stream } from "effect"
import * as fc from "fast-check"
import { Consumer, Topic } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import { everyInterruptionPoint } from "millrace/testing"
import type { Broker } from "../../../src/messaging/Broker.ts"
import type { Delivery, Subscription } from "../../../src/messaging/Driver.ts"
import type { Envelope } from "../../../src/messaging/Envelope.ts"
import { describeWith } from "../services.ts"
import { driver, idOf, subscribe, take, takeOne } from "../support.ts"
import { codeOf, fresh, getOne, proxied, rawChannel, send, until } from "./support.ts"

const acknowledge = (subscription: Subscription, deliveries: ReadonlyArray<Delivery>) =>
  subscription.settle(deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery })))

const takeAll = (subscription: Subscription, count: number) =>
  Effect.gen(function* () {
    const all: Array<Delivery> = []
    while (all.length < count) all.push(...(yield* subscription.take(count - all.length, 1e9)))
    return all
  })

/** Everything that a subscription loses, as it comes. */
const lostBy = (subscription: Subscription) =>
  Effect.gen(function* () {
    const lost: Array<Delivery> = []
    yield* Effect.forkScoped(
      Stream.runForEach(subscription.lost, (some) => Effect.sync(() => lost.push(...some))),
      { startImmediately: true }
    )
    return lost
  })

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const layer = RabbitMq.layer({ url })
  const ctl = (...args: ReadonlyArray<string>) => rabbitmq.exec(["rabbitmqctl", "-q", ...args])

  const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope | Broker>, broker: typeof layer = layer) =>
    it.live(name, () => body.pipe(Effect.scoped, Effect.provide(broker)))

  /** A topic with a group `g` and so many messages, `m0`, `m1`, and so on. */
  const topicWith = (count: number) =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      yield* broker.declare({ topic, groups: ["g"] })
      yield* broker.publish(Array.from({ length: count }, (_, n) => send(topic, `m${n}`)))
      return { broker, topic }
    })

  test(
    "after a reconnect old deliveries are lost, and settling them again reaches no new one",
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      const { topic } = yield* topicWith(5)
      yield* Effect.gen(function* () {
        const subscription = yield* subscribe(yield* driver, { topic })
        const lost = yield* lostBy(subscription)
        const old = yield* takeAll(subscription, 5)
        assert.deepStrictEqual(
          old.map(({ deliveries }) => deliveries),
          [1, 1, 1, 1, 1]
        )
        yield* proxy.cut
        yield* until("all five are lost", () => lost.length === 5)
        assert.deepStrictEqual(new Set(lost), new Set(old))
        const again = yield* takeAll(subscription, 5)
        assert.isUndefined(subscription.problem?.())
        assert.deepStrictEqual(yield* acknowledge(subscription, old), ["Lost", "Lost", "Lost", "Lost", "Lost"])
        assert.deepStrictEqual(yield* subscription.renew(old.slice(0, 1)), ["Lost"])
        assert.deepStrictEqual(again.map(idOf).toSorted(), old.map(idOf).toSorted())
        assert.deepStrictEqual(
          again.map(({ deliveries }) => deliveries),
          [2, 2, 2, 2, 2]
        )
        yield* acknowledge(subscription, again.slice(0, 4))
      }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: by })))
      // Of the second delivery four were acknowledged, whatever was done to the first.
      const rest = yield* subscribe(yield* driver, { topic })
      yield* takeOne(rest)
      assert.strictEqual((yield* (yield* driver).backlog({ topic, group: "g" })).waiting, 0)
    })
  )

  test(
    "whatever is settled in whatever order and batches, exactly the rest comes again",
    Effect.gen(function* () {
      const broker = yield* driver
      const context = yield* Effect.context<Broker>()
      const batches = fc.array(fc.array(fc.nat({ max: 49 }), { maxLength: 20 }), { maxLength: 6 })
      const property = fc.asyncProperty(batches, fc.nat({ max: 49 }), (acks, release) =>
        Effect.gen(function* () {
          const { topic } = yield* topicWith(50)
          const acknowledged = new Set<string>()
          yield* Effect.scoped(
            Effect.gen(function* () {
              const subscription = yield* subscribe(broker, { topic, credit: 50 })
              const all = yield* takeAll(subscription, 50)
              const given = all[release]
              for (const batch of acks) {
                const some = batch.flatMap((n) => (n === release ? [] : (all[n] ?? [])))
                yield* acknowledge(subscription, some)
                for (const one of some) acknowledged.add(idOf(one))
              }
              if (given !== undefined) yield* subscription.settle([{ _tag: "Release", delivery: given }])
            })
          )
          const next = yield* subscribe(broker, { topic, credit: 50 })
          const expected = Array.from({ length: 50 }, (_, n) => `m${n}`).filter((id) => !acknowledged.has(id))
          const rest = yield* takeAll(next, expected.length)
          assert.deepStrictEqual(rest.map(idOf).toSorted(), expected.toSorted())
          assert.strictEqual((yield* broker.backlog({ topic, group: "g" })).waiting, 0)
        }).pipe(Effect.scoped, Effect.provide(context), Effect.runPromise)
      )
      yield* Effect.promise(() => fc.assert(property, { numRuns: 15 }))
    })
  )

  test(
    "an interrupted subscribe leaves no consumer behind",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(3)
      const channel = yield* rawChannel(url)
      yield* everyInterruptionPoint(
        Effect.void,
        () => Effect.scoped(subscribe(broker, { topic })),
        () => Effect.void
      )
      const consumers = Effect.promise(() => channel.checkQueue(`${topic}:g`))
      yield* Effect.repeat(consumers, {
        until: ({ consumerCount, messageCount }) => consumerCount === 0 && messageCount === 3,
        schedule: Schedule.spaced("10 millis"),
        times: 1000
      }).pipe(Effect.tap(({ consumerCount }) => Effect.sync(() => assert.strictEqual(consumerCount, 0))))
    })
  )

  test(
    "a consumer that closes right after its last message has acknowledged it",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(0)
      for (let round = 0; round < 5; round++) {
        yield* broker.publish(Array.from({ length: 2000 }, (_, n) => send(topic, `m${n}`)))
        yield* Effect.scoped(
          Effect.gen(function* () {
            const subscription = yield* subscribe(broker, { topic })
            for (let left = 2000; left > 0; ) {
              const some = yield* subscription.take(7, 1e9)
              // One by one, and never all before it: each is a frame of its own.
              for (const delivery of some.toReversed()) yield* acknowledge(subscription, [delivery])
              left -= some.length
            }
          })
        )
        assert.strictEqual((yield* broker.backlog({ topic, group: "g" })).waiting, 0)
      }
    })
  )

  test(
    "without credit nothing is kept from the other members",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(20)
      const first = yield* subscribe(broker, { topic, credit: 20 })
      const held = yield* takeOne(first)
      yield* first.setCredit(0)
      const second = yield* subscribe(broker, { topic, credit: 20 })
      assert.strictEqual((yield* takeAll(second, 19)).length, 19)
      assert.deepStrictEqual(yield* acknowledge(first, [held]), ["Unconfirmed"])
    })
  )

  test(
    "a message is given up shortly before the server's time for its acknowledgement, and the others stay",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(1)
      const subscription = yield* subscribe(broker, { topic })
      const lost = yield* lostBy(subscription)
      const slow = yield* takeOne(subscription)
      assert.deepStrictEqual(yield* subscription.renew([slow]), [slow.leaseEndsAt])
      yield* Effect.sleep("1 second")
      yield* broker.publish([send(topic, "young")])
      const young = yield* takeOne(subscription)
      yield* until("the slow one is lost", () => lost.includes(slow))
      assert.deepStrictEqual(lost, [slow])
      assert.deepStrictEqual(yield* acknowledge(subscription, [slow, young]), ["Lost", "Unconfirmed"])
      const again = yield* takeOne(subscription)
      assert.deepStrictEqual([idOf(again), again.deliveries], ["m0", 2])
      assert.isUndefined(subscription.problem?.())
    }),
    RabbitMq.layer({ url, acknowledgementTimeout: "2 seconds" })
  )

  test(
    "a handler that takes longer than the server waits is interrupted with LeaseLost",
    Effect.gen(function* () {
      const topic = Topic.make(fresh(), { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })
      let runs = 0
      const causes: Array<boolean> = []
      yield* Consumer.make(
        topic,
        () =>
          Effect.suspend(() => (++runs === 1 ? Effect.never : Effect.void)).pipe(
            Effect.onExit((exit) =>
              Effect.sync(() => {
                if (Exit.isFailure(exit)) causes.push(Consumer.isLeaseLost(exit.cause))
              })
            )
          ),
        { group: "g", lease: "600 millis" }
      )
      yield* topic.publish({ n: 1 })
      yield* until("it ran again", () => runs === 2)
      assert.deepStrictEqual(causes, [true])
    }),
    RabbitMq.layer({ url, acknowledgementTimeout: "2 seconds" })
  )

  class Failed extends Schema.TaggedError<Failed>()("Failed", { text: Schema.String }) {
    override get message(): string {
      return this.text
    }
  }

  /** A topic whose first message fails with this text at each attempt; and what its handler has seen. */
  const failing = (text: string, decision: Consumer.Decision) =>
    Effect.gen(function* () {
      const topic = Topic.make(fresh(), { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })
      const seen: Array<Envelope> = []
      let handled = false
      yield* Consumer.make(
        topic,
        ({ n }, message) => {
          if (n === 1) {
            seen.push(message)
            return Effect.fail(new Failed({ text }))
          }
          handled = true
          return Effect.void
        },
        { group: "g", maxAttempts: 6, onError: { Failed: decision } }
      )
      const next = Effect.andThen(
        topic.publish({ n: 2 }),
        until("the next one is handled", () => handled)
      )
      return { name: topic.name, topic, seen, next }
    })

  for (const [name, query, most] of [
    ["64 kB", "", 64_000],
    ["what the connection takes", "?frameMax=8192", 6000]
  ] as const) {
    test(
      `where headers leave no room for its history within ${name}, a retry goes without it, and so does the dead letter`,
      Effect.gen(function* () {
        const pad = "x".repeat(most)
        const { name, next, seen, topic } = yield* failing(`it is ${"1".repeat(990)}`, Consumer.delay("10 millis"))
        yield* topic.publish({ n: 1 }, { id: "wide", headers: { pad } })
        const letter = yield* getOne(yield* rawChannel(url), `${name}:g:dead`)
        assert.deepStrictEqual(
          seen.map(({ attempt }) => attempt),
          [1, 2, 3, 4, 5, 6]
        )
        assert.strictEqual(seen[1]?.history?.attempts.length, 1)
        assert.isTrue(seen.some(({ attempt, history }) => attempt > 2 && history?.attempts.length === 0))
        for (const { headers, history } of seen.slice(1)) {
          assert.strictEqual(headers.pad, pad)
          assert.strictEqual(history?.firstFailedAt, seen[1]?.history?.firstFailedAt)
        }
        const { headers = {} } = letter.properties
        assert.deepInclude(headers, {
          "cloudEvents:id": "wide",
          "cloudEvents:attempt": "6",
          "cloudEvents:deathreason": "exhausted",
          pad
        })
        assert.match(String(headers["cloudEvents:deathcause"]), /it is 1+…$/)
        yield* next
      }),
      RabbitMq.layer({ url: url + query })
    )
  }

  for (const [name, decision, cause] of [
    ["tried again", Consumer.delay("10 millis"), "its headers leave no room to try it again: no"],
    ["set aside", Consumer.deadLetter, "no"]
  ] as const) {
    test(
      `a message of another program whose headers leave no room at all is a dead letter without them where it is to be ${name}`,
      Effect.gen(function* () {
        const { name, next, seen } = yield* failing("no", decision)
        const channel = yield* rawChannel(url)
        // The most that the client can write.
        const headers = { pad: "x".repeat(65_523) }
        channel.publish(name, "", Buffer.from('{"n":1}'), { headers, messageId: "full" })
        const letter = yield* getOne(channel, `${name}:g:dead`)
        assert.strictEqual(letter.content.toString(), '{"n":1}')
        assert.deepInclude(letter.properties.headers, {
          "cloudEvents:id": "full",
          "cloudEvents:deathcause": `without its headers, which left no room: ${cause}`
        })
        assert.notProperty(letter.properties.headers, "pad")
        yield* next
        assert.strictEqual(seen.length, 1)
        assert.strictEqual((yield* (yield* driver).backlog({ topic: name, group: "g" })).waiting, 0)
      })
    )
  }

  test(
    "a message of another program that is larger than may be published here is set aside all the same",
    Effect.gen(function* () {
      const { name, next } = yield* failing("no", Consumer.deadLetter)
      const channel = yield* rawChannel(url)
      const content = Buffer.from(`{"n":1,"pad":"${"x".repeat(2000)}"}`)
      channel.publish(name, "", content, {})
      assert.deepStrictEqual((yield* getOne(channel, `${name}:g:dead`)).content, content)
      yield* next
    }),
    RabbitMq.layer({ url, maxMessageBytes: 1000 })
  )

  it.live("a server that waits for less than it was told closes the channel; consumption goes on", () =>
    Effect.gen(function* () {
      const set = (timeout: number, tick: number) =>
        ctl(
          "eval",
          `application:set_env(rabbit, consumer_timeout, ${timeout}), application:set_env(rabbit, channel_tick_interval, ${tick}).`
        )
      yield* Effect.acquireRelease(set(500, 200), () => set(1_800_000, 60_000))
      yield* Effect.gen(function* () {
        const { broker, topic } = yield* topicWith(1)
        const subscription = yield* subscribe(broker, { topic })
        const lost = yield* lostBy(subscription)
        const first = yield* takeOne(subscription)
        yield* until("it is lost", () => lost.includes(first))
        const second = yield* takeOne(subscription)
        assert.deepStrictEqual(yield* acknowledge(subscription, [first, second]), ["Lost", "Unconfirmed"])
      }).pipe(Effect.scoped, Effect.provide(layer))
    }).pipe(Effect.scoped)
  )

  /** Breaks the consumption of a topic; it must go on within ten seconds, say so meanwhile, and be well afterwards. */
  const goesOn = (
    name: string,
    breaks: (topic: string, proxy: Effect.Success<ReturnType<typeof proxied>>["proxy"]) => Effect.Effect<void, unknown>,
    mends: (proxy: Effect.Success<ReturnType<typeof proxied>>["proxy"]) => Effect.Effect<void, unknown> = () =>
      Effect.void
  ) =>
    it.live(`${name}: consumption goes on by itself within ten seconds, and says so`, () =>
      Effect.gen(function* () {
        const { proxy, url: by } = yield* proxied(url)
        const topic = Topic.make(fresh(), { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })
        const got = new Set<number>()
        const consuming = Consumer.make(topic, ({ n }) => Effect.sync(() => got.add(n)), { group: "g" })
        const behind = yield* Layer.build(RabbitMq.layer({ url: by, heartbeat: "1 second" }))
        const consumer = yield* Effect.provide(consuming, behind)
        yield* topic.publish({ n: 1 })
        yield* until("the first is handled", () => got.has(1))
        // Watched from before it breaks, since it may be over before the command that broke it is.
        const said = yield* Effect.forkScoped(
          Effect.repeat(consumer.health, {
            until: ({ problem, status }) => status === "unreachable" && problem !== undefined,
            schedule: Schedule.spaced("2 millis")
          }),
          { startImmediately: true }
        )
        yield* breaks(topic.name, proxy)
        yield* Fiber.join(said)
        yield* mends(proxy)
        const mended = Date.now()
        const publish = topic.publish({ n: 2 })
        yield* Effect.retry(publish, { schedule: Schedule.spaced("50 millis"), times: 200 })
        yield* until("the second is handled", () => got.has(2))
        assert.isBelow(Date.now() - mended, 10_000)
        assert.strictEqual((yield* consumer.health).status, "consuming")
      }).pipe(Effect.scoped, Effect.provide(layer))
    )

  goesOn("the queue is deleted", (topic) =>
    Effect.scoped(Effect.flatMap(rawChannel(url), (channel) => Effect.promise(() => channel.deleteQueue(`${topic}:g`))))
  )
  goesOn("the server closes the connections", () => ctl("close_all_connections", "test"))
  goesOn("the connection is reset", (_, proxy) => proxy.cut)
  goesOn("the server is gone without a word", (_, proxy) => proxy.halfOpen("client"))
  goesOn(
    "packets disappear",
    (_, proxy) => proxy.stall(),
    (proxy) => proxy.restore
  )
  goesOn(
    "packets to the client disappear",
    (_, proxy) => proxy.stall("toClient"),
    (proxy) => proxy.restore
  )
  goesOn(
    "packets to the server disappear",
    (_, proxy) => proxy.stall("toServer"),
    (proxy) => proxy.restore
  )
  goesOn("the server is restarted", () => rabbitmq.restart())
  goesOn("the server is killed", () => Effect.andThen(Effect.scoped(rabbitmq.kill()), rabbitmq.start))

  test(
    "a binding that is deleted is put back within ten seconds",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(0)
      const other = fresh()
      // Another process, which does not know the group.
      const publisher = Effect.flatMap(driver, (broker) => broker.publish([send(topic, other)])).pipe(
        Effect.provide(RabbitMq.layer({ url }))
      )
      const subscription = yield* subscribe(broker, { topic })
      const channel = yield* rawChannel(url)
      yield* Effect.promise(() => channel.unbindQueue(`${topic}:g`, topic, ""))
      assert.strictEqual(codeOf((yield* publisher)[0]), "NoGroup")
      yield* Effect.repeat(publisher, {
        until: ([answer]) => codeOf(answer) === "Confirmed",
        schedule: Schedule.spaced("500 millis"),
        times: 24
      })
      assert.deepStrictEqual(yield* take(subscription), [other])
    })
  )

  test(
    "all connections are closed again and again under load with retries: nothing is lost",
    Effect.gen(function* () {
      const topic = Topic.make(fresh(), { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })
      const handled = new Map<string, number>()
      class Flaky extends Schema.TaggedError<Flaky>()("Flaky", {}) {}
      yield* Consumer.make(
        topic,
        ({ n }, { attempt, id }) =>
          Effect.suspend(() => {
            if (n % 5 === 0 && attempt === 1) return Effect.fail(new Flaky())
            handled.set(id, attempt)
            return Effect.void
          }),
        { group: "g", onError: { Flaky: Consumer.delay("50 millis") } }
      )
      const ids = Array.from({ length: 2000 }, (_, n) => `m${n}`)
      const publishing = yield* Effect.forkChild(
        Effect.forEach(
          ids.entries(),
          ([n, id]) =>
            Effect.andThen(
              Effect.retry(topic.publish({ n }, { id }), { schedule: Schedule.spaced("20 millis"), times: 500 }),
              Effect.sleep(n % 20 === 0 ? 5 : 0)
            ),
          { concurrency: 20, discard: true }
        )
      )
      for (let round = 0; round < 3; round++) {
        yield* Effect.sleep("300 millis")
        yield* ctl("close_all_connections", "test")
      }
      yield* Fiber.join(publishing)
      yield* until("all are handled", () => ids.every((id) => handled.has(id)))
      for (const [n, id] of ids.entries()) if (n % 5 === 0) assert.isAtLeast(handled.get(id) ?? 0, 2)
    })
  )

  it.live("what was abandoned is not given back by the end of its subscription, but by that of the connection", () =>
    Effect.gen(function* () {
      const observer = yield* driver
      const topic = fresh()
      yield* observer.declare({ topic, groups: ["g"] })
      yield* observer.publish([send(topic, "abandoned"), send(topic, "other")])
      yield* Effect.gen(function* () {
        const broker = yield* driver
        yield* Effect.scoped(
          Effect.gen(function* () {
            const subscription = yield* subscribe(broker, { topic })
            const [delivery] = yield* takeAll(subscription, 2)
            if (delivery !== undefined) yield* subscription.settle([{ _tag: "Abandon", delivery }])
          })
        )
        const next = yield* subscribe(observer, { topic })
        assert.deepStrictEqual((yield* takeAll(next, 1)).map(idOf), ["other"])
        const more = yield* Effect.timeoutOption(next.take(1, 1000), "300 millis")
        assert.strictEqual(more._tag, "None")
      }).pipe(Effect.scoped, Effect.provide(Layer.fresh(layer)))
      const last = yield* subscribe(observer, { topic })
      assert.include((yield* takeAll(last, 2)).map(idOf), "abandoned")
    }).pipe(Effect.scoped, Effect.provide(layer))
  )
})
