/** What stands at the server: names, what is checked, and what is put back when somebody deletes it. */
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Topic } from "millrace"
import { BrokerError } from "millrace/Broker"
import { RabbitMq } from "millrace/rabbitmq"
import { describeWith } from "../services.ts"
import { driver, subscribe, take } from "../support.ts"
import { codeOf, fresh, rawChannel, send } from "./support.ts"

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const layer = RabbitMq.layer({ url })

  const rejection = <R>(effect: Effect.Effect<unknown, unknown, R>) =>
    Effect.map(Effect.flip(effect), (error) => {
      assert.instanceOf(error, BrokerError)
      assert.strictEqual(error.reason._tag, "Rejected")
      return error.reason._tag === "Rejected" ? { code: error.reason.code, text: error.message } : assert.fail()
    })

  it.live("a topic is a fanout exchange, a group a quorum queue with its own queues for retries and dead letters", () =>
    Effect.gen(function* () {
      const [topic, group] = [`${fresh()}.orders`, "sms.eu"]
      const broker = yield* driver
      yield* broker.declare({ topic, groups: [group] })
      const subscription = yield* subscribe(broker, { topic, group })
      yield* broker.publish([
        send(topic, "1"),
        send(topic, "later", { delay: 60_000 }),
        send(topic, "dead", { destination: { _tag: "DeadLetters", topic, group } })
      ])
      const [delivery] = yield* subscription.take(1, 1000)
      if (delivery === undefined) return assert.fail("nothing came")
      const envelope = { ...delivery.message.envelope, attempt: 2 }
      yield* subscription.settle([{ _tag: "Retry", delivery, delay: 61_000, envelope }])
      const queues = (yield* rabbitmq.exec(["rabbitmqctl", "-q", "list_queues", "name", "type", "durable"]))
        .split("\n")
        .filter((line) => line.startsWith(topic))
        .map((line) => line.split("\t"))
        .toSorted()
      assert.deepStrictEqual(queues, [
        [`${topic}::delay:64000`, "quorum", "true"],
        [`${topic}:${group}`, "quorum", "true"],
        [`${topic}:${group}:dead`, "quorum", "true"],
        [`${topic}:${group}:retry:64000`, "quorum", "true"]
      ])
      // It would take what waits in it along: nothing but a consumer keeps a quorum queue from expiring.
      const more = yield* rabbitmq.exec(["rabbitmqctl", "-q", "list_queues", "name", "arguments"])
      const retries = more.split("\n").filter((line) => line.startsWith(`${topic}:${group}:retry`))
      assert.strictEqual(retries.length, 1)
      assert.notInclude(retries[0], "x-expires")
      const channel = yield* rawChannel(url)
      const counts = yield* Effect.forEach(queues, ([name = ""]) =>
        Effect.promise(() => channel.checkQueue(name).then(({ messageCount }) => messageCount))
      )
      assert.deepStrictEqual(counts, [1, 0, 1, 1])
      const exchanges = yield* rabbitmq.exec(["rabbitmqctl", "-q", "list_exchanges", "name", "type", "durable"])
      assert.include(exchanges, `${topic}\tfanout\ttrue`)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("what exists and is otherwise is Incompatible, and the text names the difference", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const channel = yield* rawChannel(url)
      const [exchange, queue] = [fresh(), fresh()]
      yield* Effect.promise(() => channel.assertExchange(exchange, "direct"))
      yield* Effect.promise(() => channel.assertQueue(`${queue}:g`))
      const type = yield* rejection(broker.declare({ topic: exchange, groups: [] }))
      assert.strictEqual(type.code, "Incompatible")
      assert.match(type.text, /'type'.*received 'fanout' but current is 'direct'/)
      const declared = yield* rejection(broker.declare({ topic: queue, groups: ["g"] }))
      assert.strictEqual(declared.code, "Incompatible")
      assert.match(declared.text, /'x-queue-type' for queue .*'quorum'/)
      const subscribed = yield* rejection(Effect.scoped(subscribe(broker, { topic: queue })))
      assert.strictEqual(subscribed.code, "Incompatible")
      // A publisher that has not declared anything hears of it too.
      const [answer] = yield* broker.publish([send(exchange, "1")])
      assert.strictEqual(codeOf(answer), "Incompatible")
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("names that the server cannot have, or that would be ambiguous, are refused", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      for (const [topic_, group] of [
        ["", "g"],
        ["amq.topic", "g"],
        ["a:b", "g"],
        ["x".repeat(256), "g"],
        ["line\nbreak", "g"],
        [topic, "a:b"],
        [topic, "half \ud800"]
      ] as const) {
        const { code } = yield* rejection(broker.declare({ topic: topic_, groups: [group] }))
        assert.strictEqual(code, "InvalidName", JSON.stringify([topic_, group]))
        const [answer] = yield* broker.publish([
          send(topic_, "1", { destination: { _tag: "Group", topic: topic_, group } })
        ])
        assert.strictEqual(codeOf(answer), "InvalidName", JSON.stringify([topic_, group]))
      }
      // Long groups are told apart by a hash.
      const long = ["x", "y"].map((end) => `${"g".repeat(300)}${end}`)
      yield* broker.declare({ topic, groups: long })
      yield* broker.publish([
        send(topic, "for x", { destination: { _tag: "Group", topic, group: long[0] ?? "" } }),
        send(topic, "for y", { destination: { _tag: "Group", topic, group: long[1] ?? "" } })
      ])
      assert.deepStrictEqual(yield* take(yield* subscribe(broker, { topic, group: long[0] ?? "" })), ["for x"])
      assert.deepStrictEqual(yield* take(yield* subscribe(broker, { topic, group: long[1] ?? "" })), ["for y"])
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("without a group a message is Rejected with NoGroup, unless the topic declares its groups", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ n: Schema.Number })
      const without = Topic.make(fresh(), { schema, version: 1 })
      const { code, text } = yield* rejection(without.publish({ n: 1 }))
      assert.strictEqual(code, "NoGroup")
      assert.include(text, without.name)
      const broker = yield* driver
      const [toNobody] = yield* broker.publish([
        send(without.name, "1", { destination: { _tag: "Group", topic: without.name, group: "nobody" } })
      ])
      assert.strictEqual(codeOf(toNobody), "NoGroup")
      const named = Topic.make(fresh(), { schema, version: 1, groups: ["g"] })
      yield* named.publish({ n: 1 })
      const subscription = yield* subscribe(broker, { topic: named.name })
      assert.strictEqual((yield* take(subscription)).length, 1)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("of many that are returned each hears of it, and those for others are confirmed", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const [kept, lost] = [fresh(), fresh()]
      yield* broker.declare({ topic: kept, groups: ["g"] })
      const messages = Array.from({ length: 300 }, (_, n) => send(n % 3 === 0 ? lost : kept, `m${n % 50}`))
      const answers = yield* broker.publish(messages)
      assert.deepStrictEqual(
        answers.map(codeOf),
        messages.map((_, n) => (n % 3 === 0 ? "NoGroup" : "Confirmed"))
      )
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("an exchange that is deleted under load fails its own messages alone, and is put back", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const channel = yield* rawChannel(url)
      const [hit, other] = [fresh(), fresh()]
      yield* broker.declare({ topic: hit, groups: ["g"] })
      yield* broker.declare({ topic: other, groups: ["g"] })
      yield* broker.publish([send(hit, "first")])
      const load = (topic: string) =>
        Effect.forEach(
          Array.from({ length: 40 }, (_, round) => round),
          (round) => broker.publish(Array.from({ length: 25 }, (_, n) => send(topic, `${round}/${n}`)))
        )
      const [answers, others] = yield* Effect.all(
        [load(hit), load(other), Effect.promise(() => channel.deleteExchange(hit))],
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(new Set(others.flat().map(codeOf)), new Set(["Confirmed"]))
      for (const answer of answers.flat()) {
        if (answer._tag === "Failed") assert.match(answer.error.message, new RegExp(`no exchange '${hit}'`))
      }
      // The exchange and the binding of the group that this process knows are there again.
      assert.strictEqual(codeOf((yield* broker.publish([send(hit, "last")]))[0]), "Confirmed")
      const subscription = yield* subscribe(broker, { topic: hit, credit: 5000 })
      const got = new Set<string>()
      while (!got.has("last")) for (const id of yield* take(subscription, 5000)) got.add(id)
      const confirmed = answers.flatMap((round, i) =>
        round.flatMap((answer, n) => (answer._tag === "Confirmed" ? [`${i}/${n}`] : []))
      )
      assert.deepStrictEqual(
        confirmed.filter((id) => !got.has(id)),
        []
      )
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("a queue of a group that the topic declares is put back when it was deleted, also that of dead letters", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const channel = yield* rawChannel(url)
      const topic = fresh()
      yield* broker.declare({ topic, groups: ["g"] })
      const letter = send(topic, "letter", { destination: { _tag: "DeadLetters", topic, group: "g" } })
      yield* broker.publish([letter])
      yield* Effect.promise(() => channel.deleteQueue(`${topic}:g`))
      yield* Effect.promise(() => channel.deleteQueue(`${topic}:g:dead`))
      const answers = yield* broker.publish([send(topic, "1"), letter])
      assert.deepStrictEqual(answers.map(codeOf), ["Confirmed", "Confirmed"])
      const { messageCount } = yield* Effect.promise(() => channel.checkQueue(`${topic}:g:dead`))
      assert.strictEqual(messageCount, 1)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("a removed group is gone with what waits for it, its retries too; a subscription to it says so", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      yield* broker.declare({ topic, groups: ["g"] })
      const subscription = yield* subscribe(broker, { topic })
      yield* broker.publish([send(topic, "1", { delay: 1000, destination: { _tag: "Group", topic, group: "g" } })])
      yield* broker.removeGroup({ topic, group: "g" })
      const { code } = yield* rejection(subscription.take(1, 1000))
      assert.strictEqual(code, "NoGroup")
      const queues = yield* rabbitmq.exec(["rabbitmqctl", "-q", "list_queues", "name"])
      assert.deepStrictEqual(
        queues.split("\n").filter((name) => name.startsWith(topic)),
        [`${topic}:g:dead`]
      )
    }).pipe(Effect.scoped, Effect.provide(layer))
  )
})
