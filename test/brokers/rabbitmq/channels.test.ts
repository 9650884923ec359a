/** The channels that messages are sent by: one for each topic, as long as there are enough. */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { Registry } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import { everyInterruptionPoint } from "millrace/testing"
import { describeWith } from "../services.ts"
import { driver } from "../support.ts"
import { codeOf, fresh, proxied, rawChannel, send, until } from "./support.ts"

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp

  /** So many topics with a group, which another process has declared. */
  const topics = (count: number) =>
    Effect.gen(function* () {
      const broker = yield* driver
      const base = fresh()
      const names = Array.from({ length: count }, (_, n) => `${base}-${n}`)
      yield* Effect.forEach(names, (topic) => broker.declare({ topic, groups: ["g"] }), { concurrency: 4 })
      return names
    }).pipe(Effect.provide(RabbitMq.layer({ url })))

  /** What waits in the queue of each. */
  const counts = (names: ReadonlyArray<string>) =>
    Effect.flatMap(rawChannel(url), (channel) =>
      Effect.forEach(names, (topic) =>
        Effect.promise(() => channel.checkQueue(`${topic}:g`).then(({ messageCount }) => messageCount))
      )
    )

  /** A broker whose connections have so many channels at most, and what waits in it. */
  const withChannels = (most: number, by: string = url) =>
    Effect.gen(function* () {
      const registry = Registry.makeUnsafe()
      const layer = RabbitMq.layer({ url: `${by}?channelMax=${most}` })
      const broker = yield* Effect.provideContext(
        driver,
        yield* Effect.provideService(Layer.build(layer), Registry.Registry, registry)
      )
      const [entry] = registry.entries
      const count = (name: string) => () => entry?.counts().find(([one]) => one === name)?.[1] ?? Number.NaN
      return { broker, unconfirmed: count("unconfirmed"), waiting: count("waiting to be sent") }
    })

  it.live("more topics than the connection has channels are all published to, each message once", () =>
    Effect.gen(function* () {
      const names = yield* topics(30)
      const { broker } = yield* withChannels(4)
      const all = Array.from({ length: 5 }, (_, round) => names.map((topic) => send(topic, `${round}`)))
      for (const messages of all.slice(0, 2)) {
        assert.deepStrictEqual(new Set((yield* broker.publish(messages)).map(codeOf)), new Set(["Confirmed"]))
      }
      const at = yield* Effect.forEach(all.slice(2), (messages) => broker.publish(messages), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(new Set(at.flat().map(codeOf)), new Set(["Confirmed"]))
      assert.deepStrictEqual(new Set(yield* counts(names)), new Set([5]))
    }).pipe(Effect.scoped)
  )

  it.live("a channel is not given up before what was sent by it is confirmed", () =>
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      const names = yield* topics(6)
      const { broker, unconfirmed, waiting } = yield* withChannels(2, by)
      const [first = "", second = "", ...others] = names
      yield* broker.publish([send(first, "open"), send(second, "open")])
      yield* proxy.stall("toClient")
      const held = yield* Effect.forkChild(broker.publish([send(first, "1"), send(second, "1")]), {
        startImmediately: true
      })
      yield* until("two are sent", () => unconfirmed() === 2)
      const publishing = yield* Effect.forkChild(broker.publish(others.map((topic) => send(topic, "1"))), {
        startImmediately: true
      })
      // What is published to a topic whose channel is asked for waits too, and for its own turn.
      const behind = yield* Effect.forkChild(broker.publish([send(first, "2")]), { startImmediately: true })
      yield* until("the others wait", () => unconfirmed() === 2 && waiting() === 5)
      yield* proxy.restore
      for (const fiber of [held, publishing, behind]) {
        assert.deepStrictEqual(new Set((yield* Fiber.join(fiber)).map(codeOf)), new Set(["Confirmed"]))
      }
      assert.deepStrictEqual(yield* counts(names), [3, 2, 1, 1, 1, 1])
    }).pipe(Effect.scoped)
  )

  it.live("a topic that always has something to send leaves the one channel to others too", () =>
    Effect.gen(function* () {
      const [busy = "", ...others] = yield* topics(4)
      const { broker } = yield* withChannels(1)
      let n = 0
      const publishing = yield* Effect.forkChild(
        Effect.forEach(
          [1, 2, 3, 4],
          () => Effect.forever(Effect.suspend(() => broker.publish([send(busy, `${n++}`)]))),
          { concurrency: "unbounded" }
        )
      )
      yield* until("it publishes", () => n > 100)
      for (let round = 0; round < 5; round++) {
        const answers = yield* broker.publish(others.map((topic) => send(topic, `${round}`)))
        assert.deepStrictEqual(new Set(answers.map(codeOf)), new Set(["Confirmed"]))
        const had = n
        yield* until("it goes on", () => n > had + 20)
      }
      assert.isUndefined(publishing.pollUnsafe())
      yield* Fiber.interrupt(publishing)
    }).pipe(Effect.scoped)
  )

  it.live("interrupted at any point, a publish leaves the channels to the next", () =>
    Effect.gen(function* () {
      const names = yield* topics(3)
      const { broker, unconfirmed, waiting } = yield* withChannels(1)
      let n = 0
      yield* everyInterruptionPoint(
        Effect.void,
        () => broker.publish(names.map((topic) => send(topic, `swept ${n++}`))),
        () =>
          Effect.gen(function* () {
            const answers = yield* broker.publish(names.toReversed().map((topic) => send(topic, "next")))
            if (answers.some((answer) => codeOf(answer) !== "Confirmed")) return yield* Effect.die(answers)
          })
      )
      yield* until("nothing is left", () => unconfirmed() === 0 && waiting() === 0)
    }).pipe(Effect.scoped)
  )

  it.live("connections that are lost while channels change hands lose nothing that was confirmed", () =>
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      const names = yield* topics(8)
      const { broker } = yield* withChannels(2, by)
      const confirmed = new Map(names.map((topic) => [topic, 0]))
      const publishing = yield* Effect.forkChild(
        Effect.forEach(
          names,
          (topic) =>
            Effect.forever(
              Effect.gen(function* () {
                const [answer] = yield* broker.publish([send(topic, "m")])
                if (codeOf(answer) === "Confirmed") confirmed.set(topic, (confirmed.get(topic) ?? 0) + 1)
              })
            ),
          { concurrency: "unbounded" }
        )
      )
      for (let round = 0; round < 8; round++) {
        const had = new Map(confirmed)
        yield* until("each goes on", () => names.every((topic) => (confirmed.get(topic) ?? 0) > (had.get(topic) ?? 0)))
        yield* proxy.cut
      }
      yield* Fiber.interrupt(publishing)
      const there = yield* counts(names)
      names.forEach((topic, n) => assert.isAtLeast(there[n] ?? 0, confirmed.get(topic) ?? 0))
    }).pipe(Effect.scoped)
  )

  it.live("topics take turns where few messages may be unconfirmed", () =>
    Effect.gen(function* () {
      const [busy = "", other = ""] = yield* topics(2)
      yield* Effect.gen(function* () {
        const broker = yield* driver
        yield* broker.publish([send(busy, "first"), send(other, "first")])
        const many = yield* Effect.forkChild(
          broker.publish(Array.from({ length: 3000 }, (_, n) => send(busy, `${n}`))),
          { startImmediately: true }
        )
        yield* broker.publish([send(other, "second")])
        assert.isUndefined(many.pollUnsafe(), "it waited for all of the other topic")
        yield* Fiber.join(many)
      }).pipe(Effect.provide(RabbitMq.layer({ url, maxUnconfirmed: 1 })))
    }).pipe(Effect.scoped)
  )
})
