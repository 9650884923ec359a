/** Publishing: what is confirmed is there, once, and what cannot be there is refused at once. */

import { assert, it } from "@effect/vitest"
import { compatibilityPartitioner } from "@platformatic/kafka"
import { Effect, Fiber } from "effect"
import type { Driver } from "millrace"
import { Registry } from "millrace"
import { describeWith } from "../services.ts"
import { message } from "../support.ts"
import { client, connect, fresh, proxied, until, untilEffect } from "./support.ts"

const codeOf = (answer: Driver.Published | undefined): string | undefined =>
  answer?._tag === "Failed" && answer.error.reason._tag === "Rejected" ? answer.error.reason.code : answer?._tag

const to = (topic: string, id: string, key?: string) =>
  message(id, { destination: { _tag: "Topic", topic }, ...(key === undefined ? {} : { key }) })

describeWith("kafka", (kafka) => {
  const broker = kafka.urls.bootstrap

  it.live("a topic that is missing and may not be made is refused at once; the others of the call are sent", () =>
    Effect.gen(function* () {
      const [here, missing] = [fresh(), fresh()]
      const maker = yield* connect(broker)
      yield* maker.declare({ topic: here, groups: [] })
      const driver = yield* connect(broker, { createTopics: undefined })
      const before = performance.now()
      const answers = yield* driver.publish([to(here, "a"), to(missing, "b"), to(here, "c")])
      assert.isBelow(performance.now() - before, 2000)
      assert.deepStrictEqual(answers.map(codeOf), ["Confirmed", "NoGroup", "Confirmed"])
      const [, second] = answers
      if (second?._tag === "Failed") assert.include(second.error.message, "createTopics")
    })
  )

  it.live("the partition of a key is the one that Java clients choose", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      const keys = Array.from({ length: 300 }, (_, i) => "ключ-schlüssel-x".slice(i % 16) + String(i * 7919))
      yield* driver.publish([...keys, ""].map((key) => to(topic, `of ${key}`, key)))
      for (const { key, partition } of yield* client(broker).read(topic, 301)) {
        assert.strictEqual(partition, compatibilityPartitioner(to(topic, "") as never, key) % 4, String(key))
      }
    })
  )

  it.live("a message whose confirmation is lost is written once, and in order", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const way = yield* proxiedDriver(broker)
      const { driver, proxy } = way
      yield* driver.declare({ topic, groups: [] })
      yield* driver.publish([to(topic, "m0", "k")])
      const ids = ["m0"]
      for (let round = 1; round <= 3; round++) {
        yield* proxy.stall("toClient")
        const publishing = yield* Effect.forkScoped(
          Effect.all(
            Array.from({ length: 50 }, (_, i) => {
              const id = `m${round}-${i}`
              ids.push(id)
              return driver.publish([to(topic, id, "k")])
            }),
            { concurrency: "unbounded" }
          )
        )
        // The server has it, and its answer goes astray.
        yield* Effect.sleep("300 millis")
        yield* proxy.cut
        yield* proxy.restore
        const answers = yield* Fiber.join(publishing)
        assert.deepStrictEqual(new Set(answers.flat().map(codeOf)), new Set(["Confirmed"]))
      }
      const records = yield* client(broker).read(topic, ids.length)
      assert.deepStrictEqual(
        records.map(({ headers }) => headers.get("ce_id")?.toString()),
        ids
      )
      assert.strictEqual(yield* client(broker).count(topic), ids.length, "nothing is there twice")
    })
  )

  it.live("the numbers of what may have been written are not given to another message", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const { driver, proxy } = yield* proxiedDriver(broker)
      yield* driver.declare({ topic, groups: [] })
      const admin = yield* client(broker).admin
      /** Changes what the topic takes, so that what it has taken is refused when it comes again. */
      const take = (bytes: number) =>
        Effect.andThen(
          Effect.promise(() =>
            admin.incrementalAlterConfigs({
              resources: [
                {
                  resourceType: 2,
                  resourceName: topic,
                  configs: [{ name: "max.message.bytes", configOperation: 0, value: String(bytes) }]
                }
              ]
            })
          ),
          // The server answers before it goes by it.
          Effect.sleep("500 millis")
        )
      const large = (id: string) => ({ ...to(topic, id, "k"), body: new Uint8Array(2000) })
      yield* driver.publish([large("m0")])
      yield* proxy.stall("toClient")
      const publishing = yield* Effect.forkScoped(driver.publish([large("m1")]))
      yield* untilEffect(
        "the server has it",
        Effect.map(client(broker).count(topic), (count) => count === 2)
      )
      yield* take(1000)
      yield* proxy.cut
      yield* proxy.restore
      const [unknown] = yield* Fiber.join(publishing)
      assert.strictEqual(
        unknown?._tag === "Failed" && unknown.error.reason._tag,
        "Unavailable",
        "it is there after all"
      )
      yield* take(1_000_000)
      assert.deepStrictEqual((yield* driver.publish([large("m2")])).map(codeOf), ["Confirmed"])
      assert.strictEqual(yield* client(broker).count(topic), 3)
    })
  )

  it.live(
    "no more than the buffer waits while the server is away; an interrupted publish that was not sent is not sent",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const { driver, proxy } = yield* proxiedDriver(broker, { bufferBytes: 20_000 })
        yield* driver.declare({ topic, groups: [] })
        yield* driver.publish([to(topic, "first")])
        yield* proxy.stall()
        const body = new Uint8Array(1000)
        let answered = 0
        const publish = (id: string) =>
          Effect.tap(driver.publish([{ ...to(topic, id, "k"), body }]), () => Effect.sync(() => answered++))
        const [sent, waiting] = [
          yield* Effect.forkScoped(publish("sent")),
          yield* Effect.forkScoped(
            Effect.all(
              Array.from({ length: 100 }, (_, i) => publish(`later ${i}`)),
              { concurrency: "unbounded" }
            )
          )
        ]
        yield* Effect.sleep("200 millis")
        yield* Fiber.interrupt(waiting)
        yield* proxy.restore
        yield* Fiber.join(sent)
        yield* until("it is confirmed", () => answered > 0)
        yield* driver.publish([to(topic, "last", "k")])
        const total = yield* client(broker).count(topic)
        const ids = (yield* client(broker).read(topic, total)).map(({ headers }) => headers.get("ce_id")?.toString())
        assert.includeMembers(ids, ["first", "sent", "last"])
        // Those for which there was room had been sent already.
        assert.isBelow(total, 30)
      })
  )

  it.live("publishers that wait for room do not take it all at once", () => {
    const registry = Registry.makeUnsafe()
    return Effect.gen(function* () {
      const topic = fresh()
      const { driver, proxy } = yield* proxiedDriver(broker, { bufferBytes: 20_000 })
      yield* driver.declare({ topic, groups: [] })
      yield* driver.publish([to(topic, "first")])
      yield* proxy.stall()
      let confirmed = 0
      const publishing = yield* Effect.forkScoped(
        Effect.forEach(
          Array.from({ length: 200 }, (_, i) => ({ ...to(topic, `m${i}`, "k"), body: new Uint8Array(1000) })),
          (one) => Effect.tap(driver.publish([one]), () => Effect.sync(() => confirmed++)),
          { concurrency: "unbounded", discard: true }
        )
      )
      yield* Effect.sleep("200 millis")
      const bytes = () =>
        [...registry.entries].flatMap(({ counts }) => counts()).find(([name]) => name === "unconfirmed bytes")?.[1] ?? 0
      assert.isAtLeast(bytes(), 20_000)
      yield* proxy.restore
      let most = 0
      while (confirmed < 200) {
        most = Math.max(most, bytes())
        yield* Effect.callback<void>((resume) => void setImmediate(() => resume(Effect.void)))
      }
      yield* Fiber.join(publishing)
      // The last one that fits may go beyond it.
      assert.isBelow(most, 22_000)
    }).pipe(Effect.provideService(Registry.Registry, registry))
  })

  for (const compression of ["gzip", "snappy", "lz4", "zstd"] as const) {
    it.live(`messages are compressed with ${compression}, and read`, () =>
      Effect.gen(function* () {
        const topic = fresh()
        const driver = yield* connect(broker, { compression })
        yield* driver.declare({ topic, groups: ["g"] })
        const body = new TextEncoder().encode("the same again and again ".repeat(1000))
        yield* driver.publish([{ ...to(topic, "m"), body }])
        const subscription = yield* driver.subscribe({ topic, group: "g", credit: 1, lease: 1000, order: "none" })
        const [delivery] = yield* subscription.take(1, 1_000_000)
        assert.deepStrictEqual(delivery?.message.body.byteLength, body.byteLength)
      })
    )
  }
})

const proxiedDriver = (broker: string, options: Parameters<typeof connect>[1] = {}) =>
  Effect.gen(function* () {
    const way = yield* proxied(broker)
    return { proxy: way.proxy, driver: yield* connect(broker, { ...way.options, ...options }) }
  })
