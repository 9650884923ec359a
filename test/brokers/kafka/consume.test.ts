/** Consuming: what is committed, what waits, and what another owner of a partition knows. */
import { assert, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Logger } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { Kafka } from "millrace/kafka"
import { describeWith } from "../services.ts"
import { idOf, message, subscribe } from "../support.ts"
import { client, connect, fresh, layerAt, proxied, until, untilEffect } from "./support.ts"

const everything = Number.MAX_SAFE_INTEGER

const acknowledge = (delivery: Driver.Delivery): Driver.Settlement => ({ _tag: "Acknowledge", delivery })

/** Takes until it has so many. */
const takeMany = (subscription: Driver.Subscription, count: number) =>
  Effect.gen(function* () {
    const deliveries: Array<Driver.Delivery> = []
    while (deliveries.length < count) {
      deliveries.push(...(yield* subscription.take(count - deliveries.length, everything)))
    }
    return deliveries
  }).pipe(Effect.timeout("20 seconds"))

/** What comes within a second. */
const rest = (subscription: Driver.Subscription) =>
  Effect.map(Effect.timeoutOption(subscription.take(1000, everything), "1 second"), (found) =>
    found._tag === "None" ? [] : found.value.map(idOf)
  )

const ids = (count: number, prefix = "m") => Array.from({ length: count }, (_, i) => `${prefix}${i}`)

describeWith("kafka", (kafka) => {
  const broker = kafka.urls.bootstrap

  const publish = (driver: Driver.Driver, topic: string, names: ReadonlyArray<string>, key?: (id: string) => string) =>
    driver.publish(
      names.map((id) =>
        message(id, { destination: { _tag: "Topic", topic }, ...(key === undefined ? {} : { key: key(id) }) })
      )
    )

  it.live("what is finished behind an unfinished message is not repeated by the next owner", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics: { partitions: 1, replication: 1 } })
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(500))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(driver, { topic, credit: 500 })
          const taken = yield* takeMany(subscription, 500)
          const open = new Set(["m0", "m17", "m250"])
          yield* subscription.settle(taken.filter((one) => !open.has(idOf(one))).map(acknowledge))
          assert.deepInclude(yield* driver.backlog({ topic, group: "g" }), { waiting: 0, inFlight: 3 })
        })
      )
      assert.strictEqual((yield* driver.backlog({ topic, group: "g" })).waiting, 3)
      const next = yield* subscribe(driver, { topic, credit: 500 })
      const again = yield* takeMany(next, 3)
      assert.deepStrictEqual(again.map(idOf), ["m0", "m17", "m250"])
      yield* next.settle(again.map(acknowledge))
      assert.deepStrictEqual(yield* rest(next), [])
    })
  )

  it.live("thousands that are unfinished between thousands that are finished are told to the next owner too", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics: { partitions: 1, replication: 1 } })
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(5000))
      const isOpen = (_: unknown, i: number) => i % 2 === 0
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(driver, { topic, credit: 5000 })
          const taken = yield* takeMany(subscription, 5000)
          yield* subscription.settle(taken.filter((_, i) => !isOpen(_, i)).map(acknowledge))
        })
      )
      const next = yield* subscribe(driver, { topic, credit: 5000 })
      const again = yield* takeMany(next, 2500)
      assert.deepStrictEqual(again.map(idOf), ids(5000).filter(isOpen))
      assert.deepStrictEqual(yield* rest(next), [])
    })
  )

  it.live("a slow key takes no more than its share, and goes on in order", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics: { partitions: 1, replication: 1 } })
      yield* driver.declare({ topic, groups: ["g"] })
      const keyOf = (id: string) => id.replace(/\d+$/, "")
      yield* publish(driver, topic, [...ids(6, "slow"), ...ids(3, "quick")], keyOf)
      const subscription = yield* subscribe(driver, { topic, order: "key", credit: 6, perKey: 2 })
      const first = yield* takeMany(subscription, 4)
      assert.deepStrictEqual(first.map(idOf), ["slow0", "slow1", "quick0", "quick1"])
      yield* subscription.settle(first.slice(2).map(acknowledge))
      const second = yield* takeMany(subscription, 1)
      assert.deepStrictEqual(second.map(idOf), ["quick2"])
      yield* publish(driver, topic, ["slow6"], keyOf)
      assert.deepStrictEqual(yield* rest(subscription), [])
      // The first is given back, and comes before those that have waited.
      const [slow0, slow1] = first
      if (slow0 === undefined || slow1 === undefined) return
      yield* subscription.settle([{ _tag: "Release", delivery: slow0 }, acknowledge(slow1)])
      const again = yield* takeMany(subscription, 2)
      assert.deepStrictEqual(again.map(idOf), ["slow0", "slow2"])
      // One that is tried again later holds back its key, and no other.
      const [slow0Again] = again
      if (slow0Again === undefined) return
      const { envelope } = slow0Again.message
      yield* subscription.settle([{ _tag: "Retry", delivery: slow0Again, delay: 1500, envelope }])
      yield* publish(driver, topic, ["quick3"], keyOf)
      assert.deepStrictEqual((yield* takeMany(subscription, 1)).map(idOf), ["quick3"])
      yield* subscription.settle(again.slice(1).map(acknowledge))
      const order: Array<string> = []
      while (order.length < 5) {
        const some = yield* subscription.take(100, everything)
        assert.isAtMost(some.length, 2)
        order.push(...some.map(idOf))
        yield* subscription.settle(some.map(acknowledge))
      }
      assert.deepStrictEqual(order, ["slow0", "slow3", "slow4", "slow5", "slow6"])
    })
  )

  it.live("what a committed text says of messages that were deleted since is not taken for those behind them", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics: { partitions: 1, replication: 1 } })
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(100))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(driver, { topic })
          const taken = yield* takeMany(subscription, 100)
          const open = new Set(["m0", "m50", "m70"])
          yield* subscription.settle(taken.filter((one) => !open.has(idOf(one))).map(acknowledge))
        })
      )
      const admin = yield* client(broker).admin
      yield* Effect.promise(() =>
        admin.deleteRecords({ topics: [{ name: topic, partitions: [{ partition: 0, offset: 10n }] }] })
      )
      for (const last of [false, true]) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            // It takes one of them only, so that the other is not read, or not looked at.
            const subscription = yield* subscribe(driver, { topic, credit: last ? 10 : 1 })
            assert.deepStrictEqual(
              (yield* takeMany(subscription, last ? 2 : 1)).map(idOf),
              last ? ["m50", "m70"] : ["m50"]
            )
          })
        )
      }
    })
  )

  it.live("where the log was cut off behind the group, what is there comes again rather than never", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics: { partitions: 1, replication: 1 } })
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(10))
      // As after the loss of a server that alone had the end of the log.
      const text = JSON.stringify({ v: 2, reach: 2000, open: [], tried: [] })
      yield* client(broker).commit(`${topic}..g`, topic, 0, 1000n, text)
      // Before anybody can have noticed.
      yield* publish(driver, topic, ids(100, "n"))
      const all = [...ids(10), ...ids(100, "n")]
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(driver, { topic, credit: 200 })
          const taken = yield* takeMany(subscription, 110)
          assert.deepStrictEqual(taken.map(idOf), all)
          yield* subscription.settle(taken.slice(0, 1).map(acknowledge))
        })
      )
      const next = yield* subscribe(driver, { topic, credit: 200 })
      assert.deepStrictEqual((yield* takeMany(next, 109)).map(idOf), all.slice(1))
    })
  )

  it.live(
    "a message that is tried again in its place keeps its attempt and its time over a restart, and its key waits",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const driver = yield* connect(broker)
        yield* driver.declare({ topic, groups: ["g"] })
        yield* publish(driver, topic, ids(3), () => "k")
        let due = 0
        yield* Effect.scoped(
          Effect.gen(function* () {
            const subscription = yield* subscribe(driver, { topic, order: "key" })
            const [first] = yield* takeMany(subscription, 3)
            if (first === undefined) return
            const failed = { firstFailedAt: 1_700_000_000_000, attempts: [] }
            const envelope = { ...first.message.envelope, attempt: 4, history: failed }
            yield* subscription.settle([{ _tag: "Retry", delivery: first, delay: 1500, envelope }])
            due = Date.now() + 1490
          })
        )
        const next = yield* subscribe(driver, { topic, order: "key" })
        const again = yield* takeMany(next, 3)
        assert.isAtLeast(Date.now(), due)
        assert.deepStrictEqual(again.map(idOf), ["m0", "m1", "m2"])
        assert.deepStrictEqual(
          again.map(({ message }) => message.envelope.attempt),
          [4, 1, 1]
        )
        assert.strictEqual(again[0]?.message.envelope.history?.firstFailedAt, 1_700_000_000_000)
      })
  )

  it.live("at its bound a partition waits for its first message; the others flow", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { maxUncommitted: 100 })
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(4000), (id) => id)
      const subscription = yield* subscribe(driver, { topic, credit: 200, order: "key" })
      const [stuck] = yield* takeMany(subscription, 1)
      if (stuck === undefined) return
      const got = new Set([idOf(stuck)])
      const work = yield* Effect.forkScoped(
        Effect.forever(
          Effect.flatMap(subscription.take(100, everything), (taken) => {
            for (const one of taken) got.add(idOf(one))
            return subscription.settle(taken.map(acknowledge))
          })
        )
      )
      const log = yield* client(broker).read(topic, 4000)
      const place = log.find(({ headers }) => headers.get("ce_id")?.toString() === idOf(stuck))
      const elsewhere = log.filter(({ partition }) => partition !== place?.partition)
      yield* until("the other partitions are read to their end", () =>
        elsewhere.every(({ headers }) => got.has(headers.get("ce_id")?.toString() ?? ""))
      )
      const here = log.length - elsewhere.length
      const behind = got.size - elsewhere.length
      assert.strictEqual(behind, 100)
      assert.isAbove(here, 200)
      yield* subscription.settle([acknowledge(stuck)])
      yield* until("the partition goes on", () => got.size === 4000)
      yield* Fiber.interrupt(work)
    })
  )

  it.live("a partition at its bound is not read in vain: the messages of one key come over a slow line too", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics: { partitions: 1, replication: 1 } })
      yield* driver.declare({ topic, groups: ["g"] })
      const body = new Uint8Array(1000)
      for (let n = 0; n < 200; n++) {
        yield* driver.publish(
          ids(10, `${n}-`).map((id) => message(id, { destination: { _tag: "Topic", topic }, key: "k", body }))
        )
      }
      const { options, proxy } = yield* proxied(broker)
      const slow = yield* connect(broker, { ...options, maxUncommitted: 50 })
      const subscription = yield* subscribe(slow, { topic, order: "key", perKey: 1 })
      // What is wanted takes two seconds; with answers of a megabyte, of which 50 messages fit, it would take twenty.
      yield* proxy.slow({ bytesPerSecond: 1_000_000 })
      for (let n = 0; n < 1000; n++) {
        const [delivery] = yield* takeMany(subscription, 1)
        if (delivery === undefined) return
        assert.strictEqual(idOf(delivery), `${Math.floor(n / 10)}-${n % 10}`)
        yield* subscription.settle([acknowledge(delivery)])
      }
    }).pipe(Effect.timeout("12 seconds"))
  )

  it.live("the lag of a group is seen by a process that reads none of it", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const [driver, other] = [yield* connect(broker), yield* connect(broker)]
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(20), (id) => id)
      const waiting = Effect.map(other.backlog({ topic, group: "g" }), (backlog) => backlog.waiting)
      assert.strictEqual(yield* waiting, 20)
      const subscription = yield* subscribe(driver, { topic })
      const taken = yield* takeMany(subscription, 20)
      yield* subscription.settle(taken.slice(0, 15).map(acknowledge))
      yield* untilEffect(
        "what is finished is committed",
        Effect.map(waiting, (n) => n === 5)
      )
    })
  )

  it.live(
    "a new group begins at offsets, and one without members goes back to them; the lag of each partition is told",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const group = { topic, group: "g" }
        const layer = yield* Layer.build(Layer.fresh(layerAt(broker)))
        const run = <A, E>(effect: Effect.Effect<A, E, Broker.Broker<"replay">>) => Effect.provideContext(effect, layer)
        const driver: Driver.Driver = Context.get(layer, Broker.Broker)
        yield* driver.declare({ topic, groups: ["first"] })
        const producer = yield* client(broker).producer()
        yield* Effect.promise(() =>
          producer.send({
            acks: -1,
            messages: ids(20).map((id, i) => ({ topic, partition: i % 2, value: Buffer.from(id) }))
          })
        )
        yield* run(Kafka.moveTo({ ...group, offsets: [7, 9] }))
        const lagOf = Effect.map(run(Kafka.lag(group)), (found) =>
          found.filter((one) => one.topic === topic).map(({ committed, end, lag }) => [committed, end, lag])
        )
        // The other partitions are empty.
        const empty = [0, 0, 0]
        assert.deepStrictEqual(yield* lagOf, [[7, 10, 3], [9, 10, 1], empty, empty])
        const textOf = ({ message }: Driver.Delivery) => Buffer.from(message.body).toString()
        yield* Effect.scoped(
          Effect.gen(function* () {
            const subscription = yield* subscribe(driver, { topic })
            const taken = yield* takeMany(subscription, 4)
            assert.deepStrictEqual(taken.map(textOf).toSorted(), ["m14", "m16", "m18", "m19"])
            const refused = yield* Effect.flip(run(Kafka.moveTo({ ...group, offsets: [0] })))
            assert.deepInclude(refused.reason, { _tag: "Rejected", code: "Refused" })
            // All but the first of them.
            yield* subscription.settle(taken.filter((one) => textOf(one) !== "m14").map(acknowledge))
          })
        )
        assert.deepStrictEqual(yield* lagOf, [[7, 10, 1], [10, 10, 0], empty, empty])
        yield* run(Kafka.moveTo({ ...group, offsets: [undefined, 0] }))
        assert.deepStrictEqual(yield* lagOf, [[7, 10, 1], [0, 10, 10], empty, empty])
        const next = yield* subscribe(driver, { topic })
        assert.strictEqual((yield* takeMany(next, 11)).length, 11)
        const many = yield* Effect.flip(run(Kafka.moveTo({ topic, group: "h", offsets: [0, 0, 0, 0, 0] })))
        assert.include(many.message, "has 4 partitions")
        // It would begin again with the first message.
        const beyond = yield* Effect.flip(run(Kafka.moveTo({ topic, group: "h", offsets: [10, 11] })))
        assert.deepInclude(beyond.reason, { _tag: "Rejected", code: "Refused" })
        assert.include(beyond.message, "partition 1 ends at 10, and offset 11 was given")
        assert.isTrue(Exit.hasDies(yield* Effect.exit(run(Kafka.moveTo({ ...group, offsets: [-1] })))))
      })
  )

  it.live("a new group begins with what was written since a time", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      yield* driver.declare({ topic, groups: ["first"] })
      yield* publish(driver, topic, ids(20), (id) => id)
      yield* Effect.sleep("50 millis")
      const since = new Date()
      yield* publish(driver, topic, ids(20, "n"), (id) => id)
      const begun = yield* subscribe(driver, { topic, group: "since", replay: since })
      assert.deepStrictEqual((yield* takeMany(begun, 20)).map(idOf).toSorted(), ids(20, "n").toSorted())
      const whole = yield* subscribe(driver, { topic, group: "whole", replay: "earliest" })
      assert.strictEqual((yield* takeMany(whole, 40)).length, 40)
      const later = yield* subscribe(driver, { topic, group: "later", replay: new Date(Date.now() + 60_000) })
      assert.deepStrictEqual(yield* rest(later), [])
    })
  )

  it.live("a group whose members have written nothing gets what came while it had them, as an older group does", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      yield* driver.declare({ topic, groups: ["older"] })
      const leave = yield* client(broker).join(`${topic}..g`, topic)
      // It has members, so nobody else may write where it begins.
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ids(20), (id) => id)
      yield* leave
      const next = yield* connect(broker)
      const subscription = yield* subscribe(next, { topic })
      assert.sameMembers((yield* takeMany(subscription, 20)).map(idOf), ids(20))
    })
  )

  it.live("what waits to be tried again outlives the topic, when that is deleted and made anew", () =>
    Effect.gen(function* () {
      const topic = fresh()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const driver = yield* connect(broker)
          yield* driver.declare({ topic, groups: ["g"] })
          yield* publish(driver, topic, ["m0"])
          const subscription = yield* subscribe(driver, { topic })
          const [first] = yield* takeMany(subscription, 1)
          if (first === undefined) return
          const envelope = { ...first.message.envelope, attempt: 2 }
          yield* subscription.settle([{ _tag: "Retry", delivery: first, delay: 10, envelope }])
        })
      )
      const admin = yield* client(broker).admin
      yield* Effect.promise(() => admin.deleteTopics({ topics: [topic] }))
      const groupId = `${topic}..g`
      const forgotten = Effect.promise(async () => {
        const [found] = await admin.listConsumerGroupOffsets({ groups: [groupId] })
        return found?.topics.every(({ name }) => name !== topic) ?? true
      })
      yield* untilEffect("the server forgets where the group has got to in it", forgotten)
      const driver = yield* connect(broker)
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ["n0"])
      const subscription = yield* subscribe(driver, { topic })
      assert.sameMembers((yield* takeMany(subscription, 2)).map(idOf), ["m0", "n0"])
    })
  )

  it.live("a group that was removed and asked for anew has the backlog of its new subscription", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      // It stays open, and ends with the group.
      const ended = yield* subscribe(driver, { topic })
      yield* driver.removeGroup({ topic, group: "g" })
      assert.strictEqual((yield* Effect.flip(ended.take(1, everything))).reason._tag, "Rejected")
      const subscription = yield* subscribe(driver, { topic })
      yield* publish(driver, topic, ids(20), (id) => id)
      yield* subscription.settle((yield* takeMany(subscription, 20)).map(acknowledge))
      assert.deepInclude(yield* driver.backlog({ topic, group: "g" }), { waiting: 0, inFlight: 0 })
    })
  )

  it.live("a partition that the topic gets later is read from its beginning", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      const subscription = yield* subscribe(driver, { topic })
      const admin = yield* client(broker).admin
      yield* Effect.promise(() =>
        admin.createPartitions({
          topics: [{ name: topic, count: 6, assignments: [{ brokerIds: [1] }, { brokerIds: [1] }] }]
        })
      )
      const producer = yield* client(broker).producer()
      yield* Effect.promise(() =>
        producer.send({
          acks: -1,
          messages: [{ topic, partition: 5, key: Buffer.from("k"), value: Buffer.from("{}") }]
        })
      )
      const [delivery] = yield* takeMany(subscription, 1)
      assert.strictEqual(delivery && idOf(delivery), `${topic}/5/0`)
    })
  )

  it.live("a server that is away is told of once, and so is that it is back; a publisher hears why", () => {
    const lines: Array<string> = []
    const logger = Logger.make<unknown, void>(({ message }) => lines.push(String(message)))
    const about = (what: string) => lines.filter((line) => line.includes(what))
    return Effect.gen(function* () {
      const topic = fresh()
      const { options, proxy } = yield* proxied(broker)
      const driver = yield* connect(broker, { ...options, patience: "1 second" })
      yield* subscribe(driver, { topic })
      yield* proxy.refuse
      yield* proxy.cut
      const [published] = yield* publish(driver, topic, ["m"])
      assert.match(published?._tag === "Failed" ? published.error.message : "", /not confirmed .* \(.*ECONNREFUSED/)
      yield* until("it is told", () => about("receives nothing").length > 0)
      yield* Effect.sleep("2500 millis")
      assert.strictEqual(about("receives nothing").length, 1)
      yield* proxy.restore
      yield* until("it is back", () => about("receives again").length > 0)
    }).pipe(Effect.provide(Logger.layer([logger])))
  })

  it.live("an abandoned message is not given to another before the session has expired", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      yield* driver.declare({ topic, groups: ["g"] })
      yield* publish(driver, topic, ["m"])
      const before = performance.now()
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(driver, { topic })
          const [delivery] = yield* takeMany(subscription, 1)
          if (delivery !== undefined) yield* subscription.settle([{ _tag: "Abandon", delivery }])
        })
      )
      const next = yield* subscribe(driver, { topic })
      assert.deepStrictEqual((yield* takeMany(next, 1)).map(idOf), ["m"])
      // The server of these tests waits for 6 seconds.
      assert.isAbove(performance.now() - before, 4000)
    })
  )
})
