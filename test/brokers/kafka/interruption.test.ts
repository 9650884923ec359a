/** Operations that are interrupted at each of their steps: nothing is lost, done twice or left behind. */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Option } from "effect"
import type { Driver } from "millrace"
import { everyInterruptionPoint } from "millrace/testing"
import { describeWith } from "../services.ts"
import { idOf, message, subscribe } from "../support.ts"
import { client, connect, fresh, proxied } from "./support.ts"

const everything = Number.MAX_SAFE_INTEGER

describeWith("kafka", (kafka) => {
  const broker = kafka.urls.bootstrap
  const createTopics = { partitions: 1, replication: 1 }

  const takeOne = (subscription: Driver.Subscription) =>
    Effect.flatMap(Effect.timeout(subscription.take(1, everything), "5 seconds"), ([delivery]) =>
      delivery === undefined ? Effect.die("take answered nothing") : Effect.succeed(delivery)
    )

  it.live("a take that is interrupted leaves what it had, and its place, to the next", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics })
      const subscription = yield* subscribe(driver, { topic, credit: 1 })
      yield* driver.publish([message("m", { destination: { _tag: "Topic", topic } })])
      // From here on it is there for each run.
      yield* subscription.settle([{ _tag: "Release", delivery: yield* takeOne(subscription) }])
      const swept = yield* everyInterruptionPoint(subscription.take(1, everything), (exit) =>
        Effect.gen(function* () {
          const delivery = (Exit.isSuccess(exit) ? exit.value[0] : undefined) ?? (yield* takeOne(subscription))
          const answer = yield* subscription.settle([{ _tag: "Release", delivery }])
          assert.deepStrictEqual(answer, ["Settled"])
        })
      )
      assert.isAbove(swept, 1)
    })
  )

  it.live("a retry that is interrupted and asked for again is written once", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics })
      const subscription = yield* subscribe(driver, { topic, credit: 1 })
      yield* driver.publish([message("m", { destination: { _tag: "Topic", topic } })])
      let runs = 0
      const swept = yield* everyInterruptionPoint(
        Effect.map(takeOne(subscription), (delivery): ReadonlyArray<Driver.Settlement> => {
          runs++
          return [{ _tag: "Retry", delivery, delay: 0, envelope: delivery.message.envelope }]
        }),
        (settlements) => subscription.settle(settlements),
        (settlements) =>
          Effect.gen(function* () {
            const [answer] = yield* subscription.settle(settlements)
            assert.include(["Settled", "Unconfirmed"], answer)
          })
      )
      assert.isAbove(swept, 1)
      assert.strictEqual(yield* client(broker).count(`${topic}..g..retry`), runs)
    })
  )

  it.live("a publish that is interrupted writes each message once at most, and what was confirmed", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics })
      const confirmed: Array<string> = []
      let n = 0
      yield* everyInterruptionPoint(
        Effect.sync(() => message(`m${n++}`, { destination: { _tag: "Topic", topic } })),
        (one) => driver.publish([one]),
        (one, exit) =>
          Effect.sync(() => {
            if (Exit.isSuccess(exit) && exit.value[0]?._tag === "Confirmed") confirmed.push(one.envelope.id)
          })
      )
      const last = yield* driver.publish([message("last", { destination: { _tag: "Topic", topic } })])
      assert.strictEqual(last[0]?._tag, "Confirmed")
      const total = yield* client(broker).count(topic)
      const ids = (yield* client(broker).read(topic, total)).map(({ headers }) => headers.get("ce_id")?.toString())
      assert.strictEqual(new Set(ids).size, ids.length)
      assert.includeMembers(ids, [...confirmed, "last"])
    })
  )

  it.live("a subscription that is interrupted while it opens leaves no member behind", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const way = yield* proxied(broker)
      const [slow, driver] = [yield* connect(broker, { ...way.options, createTopics }), yield* connect(broker)]
      yield* slow.declare({ topic, groups: ["g"] })
      yield* way.proxy.slow({ latency: "25 millis" })
      let opened = false
      let after = 0
      // It is interrupted later each time, and so while each of its requests is on its way to the server or back.
      for (; !opened; after += 35) {
        const exit = yield* Effect.exit(
          Effect.timeoutOption(Effect.scoped(subscribe(slow, { topic })), `${after} millis`)
        )
        opened = Exit.isSuccess(exit) && Option.isSome(exit.value)
        // The server refuses it while the group has a member.
        yield* driver.removeGroup({ topic, group: "g" })
        yield* slow.declare({ topic, groups: ["g"] })
      }
      assert.isAbove(after, 100)
    })
  )

  it.live("a scope that closes with messages in hand gives them to the next at once", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { createTopics })
      yield* driver.declare({ topic, groups: ["g"] })
      yield* driver.publish(["a", "b", "c"].map((id) => message(id, { destination: { _tag: "Topic", topic } })))
      const late = yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(driver, { topic })
          const taken = yield* subscription.take(2, everything)
          return { subscription, taken }
        })
      )
      const before = performance.now()
      const next = yield* subscribe(driver, { topic })
      const got: Array<string> = []
      while (got.length < 3) got.push(...(yield* next.take(3, everything)).map(idOf))
      assert.deepStrictEqual(got, ["a", "b", "c"])
      // The server of these tests waits for 6 seconds where a member does not say that it goes.
      assert.isBelow(performance.now() - before, 4000)
      const answers = yield* late.subscription.settle(
        late.taken.map((delivery) => ({ _tag: "Acknowledge", delivery }) as const)
      )
      assert.deepStrictEqual([...new Set(answers)], ["Lost"])
      assert.strictEqual((yield* Effect.flip(late.subscription.take(1, everything))).reason._tag, "Rejected")
    })
  )

  it.live("publishing on a driver that is closed fails at once", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* Effect.scoped(
        Effect.tap(connect(broker, { createTopics }), (driver) => driver.declare({ topic, groups: [] }))
      )
      const before = performance.now()
      const [answer] = yield* driver.publish([message("m", { destination: { _tag: "Topic", topic } })])
      assert.strictEqual(answer?._tag, "Failed")
      assert.isBelow(performance.now() - before, 1000)
    })
  )
})
