/** Members come and go, are cut off and come back: nothing is lost, and what is taken away is not worked on any more. */
import { spawn } from "node:child_process"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Schema, Stream } from "effect"
import type { Driver } from "millrace"
import { Consumer, Topic } from "millrace"
import { describeWith } from "../services.ts"
import { idOf, message, subscribe } from "../support.ts"
import { connect, fresh, layerAt, proxied, until } from "./support.ts"

const everything = Number.MAX_SAFE_INTEGER
const acknowledge = (delivery: Driver.Delivery): Driver.Settlement => ({ _tag: "Acknowledge", delivery })

describeWith("kafka", (kafka) => {
  const broker = kafka.urls.bootstrap

  const publish = (driver: Driver.Driver, topic: string, count: number) =>
    driver.publish(
      Array.from({ length: count }, (_, i) => message(`m${i}`, { destination: { _tag: "Topic", topic }, key: `k${i}` }))
    )

  /** What was lost of a subscription. */
  const lostOf = (subscription: Driver.Subscription) =>
    Effect.gen(function* () {
      const lost: Array<Driver.Delivery> = []
      yield* Effect.forkScoped(Stream.runForEach(subscription.lost, (some) => Effect.sync(() => lost.push(...some))))
      return lost
    })

  it.live("what is settled in time is handed over; what is not is lost, and a late settlement says so", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const [one, two] = [yield* connect(broker, { revokeTimeout: "1 second" }), yield* connect(broker)]
      yield* one.declare({ topic, groups: ["g"] })
      yield* publish(one, topic, 40)
      const a = yield* subscribe(one, { topic })
      const lost = yield* lostOf(a)
      const held: Array<Driver.Delivery> = []
      while (held.length < 40) held.push(...(yield* a.take(100, everything)))
      // Half of all is settled, in every partition.
      const settled = held.filter((_, i) => i % 2 === 0)
      yield* a.settle(settled.map(acknowledge))
      const b = yield* subscribe(two, { topic })
      const got: Array<string> = []
      while (got.length === 0) {
        const taken = yield* b.take(100, everything)
        got.push(...taken.map(idOf))
        yield* b.settle(taken.map(acknowledge))
      }
      yield* until("some are lost", () => lost.length > 0)
      const kept = held.filter((one) => !settled.includes(one) && !lost.includes(one))
      assert.isAbove(kept.length, 0, "the partitions that stay keep what they have")
      assert.deepStrictEqual(new Set(yield* a.settle(lost.map(acknowledge))), new Set(["Lost"]))
      assert.deepStrictEqual(new Set(yield* a.settle(kept.map(acknowledge))), new Set(["Unconfirmed"]))
      while (got.length < lost.length) got.push(...(yield* b.take(100, everything)).map(idOf))
      assert.deepStrictEqual(
        got.toSorted(),
        lost.map(idOf).toSorted(),
        "the other gets what was lost, and nothing else"
      )
    })
  )

  it.live("a partition that is to be given up and comes back is kept, with what was handed over of it", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const [one, two] = [yield* connect(broker), yield* connect(broker)]
      yield* one.declare({ topic, groups: ["g"] })
      yield* publish(one, topic, 40)
      const a = yield* subscribe(one, { topic })
      const lost = yield* lostOf(a)
      const held: Array<Driver.Delivery> = []
      while (held.length < 40) held.push(...(yield* a.take(100, everything)))
      // It waits for the handlers of the first for ten seconds, and leaves before.
      yield* Effect.scoped(Effect.andThen(subscribe(two, { topic }), Effect.sleep("2500 millis")))
      yield* Effect.sleep("2500 millis")
      assert.deepStrictEqual(new Set(yield* a.settle(held.map(acknowledge))), new Set(["Unconfirmed"]))
      assert.deepStrictEqual(lost, [])
      yield* publish(one, topic, 40)
      const more = new Set<string>()
      while (more.size < 40) for (const delivery of yield* a.take(100, everything)) more.add(idOf(delivery))
    })
  )

  it.live("a member that is cut off loses what it has when its session expires, and comes back", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const way = yield* proxied(broker)
      const [cut, direct] = [yield* connect(broker, way.options), yield* connect(broker)]
      yield* direct.declare({ topic, groups: ["g"] })
      yield* publish(direct, topic, 20)
      const a = yield* subscribe(cut, { topic })
      const lost = yield* lostOf(a)
      const held: Array<Driver.Delivery> = []
      while (held.length < 20) held.push(...(yield* a.take(100, everything)))
      yield* way.proxy.stall()
      const since = performance.now()
      const b = yield* subscribe(direct, { topic })
      yield* until("all is lost", () => lost.length === 20)
      const spent = performance.now() - since
      const got = new Set<string>()
      while (got.size < 20) {
        const some = yield* b.take(100, everything)
        for (const delivery of some) got.add(idOf(delivery))
        yield* b.settle(some.map(acknowledge))
      }
      // The server of these tests waits for 6 seconds: the one that is cut off knows it before the other has its messages.
      assert.isBelow(spent, 6100)
      assert.deepStrictEqual(new Set(yield* a.settle(held.map(acknowledge))), new Set(["Lost"]))
      yield* way.proxy.restore
      const restored = performance.now()
      const waiting = yield* Effect.forkScoped(a.take(1, everything))
      while (waiting.pollUnsafe() === undefined && performance.now() - restored < 15_000) {
        yield* publish(direct, topic, 20)
        yield* Effect.sleep("200 millis")
      }
      assert.isDefined(waiting.pollUnsafe(), "it receives again")
      assert.isBelow(performance.now() - restored, 10_000)
    })
  )

  it.live(
    "a member whose answers stay away for longer than its session comes back, although the server has heard it",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const way = yield* proxied(broker)
        // Half of the time between two of them is left when the session ends, for the answer to the last one.
        const deaf = yield* connect(broker, { ...way.options, heartbeat: "2 seconds" })
        const direct = yield* connect(broker)
        yield* direct.declare({ topic, groups: ["g"] })
        const subscription = yield* subscribe(deaf, { topic })
        const lost = yield* lostOf(subscription)
        yield* publish(direct, topic, 20)
        const held: Array<Driver.Delivery> = []
        while (held.length < 20) held.push(...(yield* subscription.take(100, everything)))
        yield* way.proxy.stall("toClient")
        yield* until("all is lost", () => lost.length === 20)
        yield* way.proxy.restore
        const since = performance.now()
        const got = new Set<string>()
        while (got.size < 20) {
          const some = yield* Effect.timeout(subscription.take(100, everything), "10 seconds")
          for (const one of some) got.add(idOf(one))
        }
        assert.isBelow(performance.now() - since, 10_000)
      })
  )

  it.live(
    "a process that stood still for longer than its session settles nothing any more; nothing is lost or reordered",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const driver = yield* connect(broker)
        yield* driver.declare({ topic, groups: ["g"] })
        yield* publish(driver, topic, 20)
        const lines: Array<{
          readonly held?: number
          readonly answers?: ReadonlyArray<string>
          readonly got?: string
        }> = []
        const child = yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn(
              process.execPath,
              ["--conditions=millrace-source", join(import.meta.dirname, "member.ts"), broker, topic],
              { stdio: ["ignore", "pipe", "inherit"] }
            )
          ),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        createInterface({ input: child.stdout }).on("line", (line) => lines.push(JSON.parse(line)))
        yield* until("it has all", () => lines.some(({ held }) => held === 20))
        child.kill("SIGSTOP")
        const other = yield* subscribe(driver, { topic, order: "key" })
        const got: Array<string> = []
        while (got.length < 20) {
          const some = yield* Effect.timeout(other.take(100, everything), "20 seconds")
          got.push(...some.map(idOf))
          yield* other.settle(some.map(acknowledge))
        }
        assert.strictEqual(new Set(got).size, 20, "each once")
        child.kill("SIGCONT")
        yield* until("it has settled", () => lines.some(({ answers }) => answers !== undefined))
        const answers = lines.find(({ answers }) => answers !== undefined)?.answers
        assert.deepStrictEqual([...new Set(answers)], ["Lost"])
        // Both go on: each key's messages come in order, to one of them, or to one after the other.
        const working = yield* Effect.forkScoped(
          Effect.forever(
            Effect.flatMap(other.take(100, everything), (some) => {
              for (const { message } of some) lines.push({ got: message.envelope.id })
              return other.settle(some.map(acknowledge))
            })
          )
        )
        const numbers = Array.from({ length: 300 }, (_, n) => n)
        for (const n of numbers) {
          yield* driver.publish([
            message(`${n % 30}/${n}`, { destination: { _tag: "Topic", topic }, key: `k${n % 30}` })
          ])
          yield* Effect.sleep(10)
        }
        const later = () => lines.flatMap(({ got }) => (got?.includes("/") ? [got] : []))
        yield* until("all are handled", () => new Set(later()).size === 300)
        yield* Fiber.interrupt(working)
        const seen = new Map<string, number>()
        for (const id of new Set(later())) {
          const [key = "", n] = id.split("/")
          assert.isAbove(Number(n), seen.get(key) ?? -1, `the order of key ${key}`)
          seen.set(key, Number(n))
        }
      })
  )

  it.live("members come and go every second under load: nothing is lost, and the order of keys holds", () =>
    Effect.gen(function* () {
      const topic = Topic.make(fresh(), {
        schema: Schema.Struct({ n: Schema.Number, key: Schema.String }),
        version: 1,
        key: ({ key }) => key,
        groups: ["g"]
      })
      const latest = new Map<string, number>()
      const running = new Set<string>()
      const seen = new Map<string, number>()
      const wrong: Array<string> = []
      let handled = 0
      const handler = ({ key, n }: { readonly key: string; readonly n: number }) =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            if (running.has(key)) wrong.push(`two of ${key} at once`)
            running.add(key)
          }),
          () => Effect.sleep(Math.random() * 10),
          () => Effect.sync(() => running.delete(key))
        ).pipe(
          Effect.tap(() =>
            Effect.sync(() => {
              handled++
              const before = latest.get(key) ?? -1
              const id = `${key}/${n}`
              if (n < before && !seen.has(id)) wrong.push(`${id} after ${before}`)
              latest.set(key, Math.max(before, n))
              seen.set(id, (seen.get(id) ?? 0) + 1)
            })
          )
        )
      const options = { group: "g", order: "key", concurrency: 8, shutdownDeadline: "5 seconds" } as const
      const member = Effect.andThen(
        Consumer.make(topic, handler, options),
        Effect.sleep(800 + Math.random() * 800)
      ).pipe(Effect.scoped, Effect.provide(Layer.fresh(layerAt(broker))))
      const comesAndGoes = yield* Effect.forkScoped(
        Effect.all([Effect.forever(member), Effect.forever(member)], { concurrency: "unbounded" })
      )
      let published = 0
      yield* Effect.gen(function* () {
        const stays = yield* Consumer.make(topic, handler, options)
        yield* Effect.forEach(
          Array.from({ length: 40 }, (_, key) => `k${key}`),
          (key) =>
            Effect.forEach(Array.from({ length: 150 }), (_, n) =>
              Effect.andThen(
                topic.publish({ n, key }),
                Effect.andThen(
                  Effect.sync(() => published++),
                  Effect.sleep(60)
                )
              )
            ),
          { concurrency: "unbounded" }
        )
        yield* until("all are handled", () => seen.size === published, 40_000)
        const { lost } = yield* stays.accounting
        console.info(
          `rebalance storm: ${published} published, ${handled - published} handled again, ${lost} lost by the one that stays`
        )
      }).pipe(Effect.scoped, Effect.provide(Layer.fresh(layerAt(broker))))
      yield* Fiber.interrupt(comesAndGoes)
      assert.deepStrictEqual(wrong.slice(0, 5), [])
      assert.strictEqual(seen.size, 6000)
      assert.isBelow(handled - published, 300, "handled again")
    })
  )

  it.live("connections that are gone without a word are replaced, and consumption goes on within ten seconds", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const way = yield* proxied(broker)
      const [cut, direct] = [yield* connect(broker, way.options), yield* connect(broker)]
      const subscription = yield* subscribe(cut, { topic })
      const takeEight = Effect.gen(function* () {
        const got = new Set<string>()
        while (got.size < 8) {
          const some = yield* subscription.take(100, everything)
          for (const one of some) got.add(idOf(one))
          yield* subscription.settle(some.map(acknowledge))
        }
      })
      yield* publish(direct, topic, 8)
      yield* takeEight
      yield* way.proxy.halfOpen("client")
      const since = performance.now()
      yield* publish(direct, topic, 8)
      yield* takeEight
      assert.isBelow(performance.now() - since, 10_000)
    })
  )

  it.live(
    "packets that disappear for a while: what was published meanwhile comes within ten seconds, each key in order",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const way = yield* proxied(broker)
        const [cut, direct] = [yield* connect(broker, way.options), yield* connect(broker)]
        const subscription = yield* subscribe(cut, { topic, order: "key" })
        const got: Array<string> = []
        yield* Effect.forkScoped(
          Effect.forever(
            Effect.flatMap(subscription.take(100, everything), (some) => {
              got.push(...some.map(idOf))
              return subscription.settle(some.map(acknowledge))
            })
          )
        )
        let n = 0
        const publishSome = Effect.suspend(() => {
          const id = `${n % 7}/${n++}`
          return direct.publish([message(id, { destination: { _tag: "Topic", topic }, key: id.slice(0, 1) })])
        })
        // Shorter and longer than a request waits for its answer, and longer than the session.
        for (const length of ["1 second", "5500 millis", "8 seconds"] as const) {
          yield* way.proxy.stall()
          const publishing = yield* Effect.forkScoped(Effect.forever(Effect.andThen(publishSome, Effect.sleep(20))))
          yield* Effect.sleep(length)
          yield* way.proxy.restore
          const restored = performance.now()
          yield* Fiber.interrupt(publishing)
          yield* until(`all is there after ${length}`, () => new Set(got).size >= n - 1)
          assert.isBelow(performance.now() - restored, 10_000)
        }
        const seen = new Map<string, number>()
        for (const id of new Set(got)) {
          const [key = "", place] = id.split("/")
          assert.isAbove(Number(place), seen.get(key) ?? -1, `the order of key ${key}`)
          seen.set(key, Number(place))
        }
      })
  )

  it.live("the server is restarted and killed under load: consumption goes on within ten seconds, in order", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker, { patience: "60 seconds" })
      const subscription = yield* subscribe(driver, { topic, order: "key" })
      const got: Array<string> = []
      yield* Effect.forkScoped(
        Effect.forever(
          Effect.flatMap(subscription.take(100, everything), (some) => {
            got.push(...some.map(idOf))
            return subscription.settle(some.map(acknowledge))
          })
        )
      )
      const confirmed = new Set<string>()
      const publishKey = (key: number) =>
        Effect.suspend(() => {
          const id = `${key}/${confirmed.size}`
          return driver
            .publish([message(id, { destination: { _tag: "Topic", topic }, key: String(key) })])
            .pipe(Effect.tap(([answer]) => Effect.sync(() => answer?._tag === "Confirmed" && confirmed.add(id))))
        })
      yield* Effect.forkScoped(
        Effect.all(
          Array.from({ length: 8 }, (_, key) => Effect.forever(Effect.andThen(publishKey(key), Effect.sleep(5)))),
          { concurrency: "unbounded" }
        )
      )
      yield* until("it runs", () => got.length > 100)
      for (const disturb of [kafka.restart(), Effect.andThen(Effect.scoped(kafka.kill()), kafka.start)]) {
        yield* disturb
        const up = performance.now()
        const before = new Set(got).size
        yield* until("new messages come", () => new Set(got).size > before + 100)
        assert.isBelow(performance.now() - up, 10_000)
      }
      const all = [...confirmed]
      yield* until("all that was confirmed has come", () => {
        const there = new Set(got)
        return all.every((id) => there.has(id))
      })
      const seen = new Map<string, number>()
      for (const id of new Set(got)) {
        const [key = "", place] = id.split("/")
        assert.isAbove(Number(place), seen.get(key) ?? -1, `the order of key ${key}`)
        seen.set(key, Number(place))
      }
      console.info(`restart and kill under load: ${all.length} confirmed, ${got.length - new Set(got).size} came twice`)
    })
  )
})
