/** Whatever a payload, a header, a key or a name is made of arrives as it was, or is refused. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { BrokerError } from "../../../messaging/BrokerError.ts"
import * as Consumer from "../../../messaging/Consumer.ts"
import * as DeadLetters from "../../../messaging/DeadLetters.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import * as Topic from "../../../messaging/Topic.ts"
import type { Env, Spec } from "../Harness.ts"
import { Boom, check, checkEqual, fail, outgoing, show } from "../Harness.ts"
import { acknowledge, idOf, takeAll, takeOne } from "./contract.ts"

const texts: ReadonlyArray<string> = [
  "",
  " ",
  "Größe, 漢字, العربية, עברית",
  "emoji 👩‍👩‍👧‍👦 and 𝒜",
  "line\nbreak\r\n\ttab",
  "quotes \"'` and \\ and \u2028",
  "null \u0000 and \u0007",
  "a=b; c=d, e:f%20",
  "x".repeat(4000)
]

const Text = (env: Env, group: string) =>
  Topic.make(env.name(), { schema: Schema.Struct({ text: Schema.String }), version: 1, groups: [group] })

const unicode: Spec = {
  id: "unicode",
  name: "25 payloads, header values, keys and correlation ids of any text arrive as they were",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = Text(env, "g")
      const got = new Map<string, { readonly text: string; readonly envelope: Envelope }>()
      yield* app.consume(topic, ({ text }, envelope) => Effect.sync(() => got.set(envelope.id, { text, envelope })), {
        group: "g"
      })
      const sent = yield* Effect.forEach(texts, (text, index) => {
        const headers = { empty: "", [`header-${index}`]: text, "x.y_z-1": "odd name" }
        // A key is part of what brokers hash and index; none needs one of thousands of characters.
        const key = text.slice(0, 100)
        return Effect.map(app.publish(topic, { text }, { headers, key, correlationId: text }), (id) => ({
          id,
          text,
          headers,
          key
        }))
      })
      yield* env.until(
        "all are handled",
        () => sent.every(({ id }) => got.has(id)),
        () => `Missing: ${show(sent.filter(({ id }) => !got.has(id)).map(({ text }) => text.slice(0, 50)))}`
      )
      for (const { headers, id, key, text } of sent) {
        const { envelope, text: payload } = got.get(id) ?? {}
        yield* checkEqual(payload, text, "a payload")
        yield* checkEqual(envelope?.headers, headers, "the headers")
        yield* checkEqual(envelope?.key, key, "a key")
        yield* checkEqual(envelope?.correlationId, text, "a correlation id")
      }
      return { sent: sent.length, duplicates: 0 }
    })
}

const bytes: Spec = {
  id: "bytes",
  name: "25 a payload of no bytes, of all bytes and of one megabyte arrives as it was",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.name()
      yield* env.patiently(app.driver.declare({ topic, groups: ["g"] }))
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const largest = Math.min(1024 * 1024, app.driver.maxMessageBytes)
      const bodies = [
        new Uint8Array(0),
        Uint8Array.from({ length: 256 }, (_, byte) => byte),
        Uint8Array.from({ length: largest }, (_, index) => (index * 31) % 251)
      ]
      for (const [index, body] of bodies.entries()) {
        const envelope = { contentType: "application/octet-stream", key: undefined }
        const message = outgoing(topic, `m${index}`, { body, envelope })
        const { body: sent } = message
        yield* app.send([message])
        const taken = yield* takeAll(env, subscription, [message.envelope.id])
        const delivery = taken.find((one) => idOf(one) === message.envelope.id)
        yield* checkEqual(delivery?.message.envelope, message.envelope, `the envelope of ${body.byteLength} bytes`)
        yield* checkEqual(delivery?.message.body, sent, `the payload of ${body.byteLength} bytes`)
        yield* acknowledge(env, subscription, taken)
      }
      return { sent: bodies.length, duplicates: 0 }
    })
}

const wholeEnvelope: Spec = {
  id: "whole-envelope",
  name: "an envelope with everything in it arrives as it was",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.name()
      yield* env.patiently(app.driver.declare({ topic, groups: ["g"] }))
      const message = outgoing(topic, "id with spaces/ü", {
        envelope: {
          source: "/shop/orders?x=ü",
          key: "k",
          version: 12,
          timestamp: 1_700_000_000_123,
          contentType: "application/vnd.x+json; charset=utf-8",
          attempt: 7,
          traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          tracestate: "vendor=value,other=1",
          correlationId: "c",
          headers: { a: "1", B: "2" },
          history: {
            firstFailedAt: 1_700_000_000_001,
            attempts: [{ attempt: 6, at: 1_700_000_000_002, tag: "Tag", message: "why √", host: "h:1" }]
          },
          replays: 2
        }
      })
      yield* app.send([message])
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const delivery = yield* takeOne(env, subscription)
      yield* checkEqual(delivery.message, { envelope: message.envelope, body: message.body }, "the message")
      yield* acknowledge(env, subscription, [delivery])
      return { sent: 1, duplicates: 0 }
    })
}

const tooLarge: Spec = {
  id: "too-large",
  name: "a payload over the limit is Rejected with TooLarge, and the rest of its batch is sent",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const limit = app.driver.maxMessageBytes
      // Nobody has so much memory to spare in a test.
      if (limit > 64 * 1024 * 1024) return { sent: 0, duplicates: 0 }
      const topic = Text(env, "g")
      const result = yield* Effect.result(app.publish(topic, { text: "x".repeat(limit) }))
      const isTooLarge = (error: unknown) =>
        error instanceof BrokerError && error.reason._tag === "Rejected" && error.reason.code === "TooLarge"
      yield* check(
        Result.isFailure(result) && isTooLarge(result.failure),
        () => `a payload over the limit should be Rejected with TooLarge: ${show(result)}`
      )
      const body = new Uint8Array(limit + 1)
      const batch = [outgoing(topic.name, "a"), outgoing(topic.name, "b", { body }), outgoing(topic.name, "c")]
      const answers = yield* env.patiently(app.driver.publish(batch))
      const [, second] = answers
      yield* check(
        !env.calm || (answers[0]?._tag === "Confirmed" && answers[2]?._tag === "Confirmed"),
        () => `the others of the batch were answered with ${show(answers.map(({ _tag }) => _tag))}`
      )
      yield* check(
        second?._tag === "Failed" && (isTooLarge(second.error) || !env.calm),
        () => `a payload over the limit should be Rejected with TooLarge: ${show(second)}`
      )
      return { sent: 3, duplicates: 0 }
    })
}

const boom = Effect.fail(new Boom({ why: "on purpose" }))

const names: Spec = {
  id: "names",
  name: "names do not run into each other: topic a.b of group c is not topic a of group b.c",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const base = env.name()
      const schema = Schema.Struct({ n: Schema.Number })
      const pairs = [
        { topic: Topic.make(`${base}.a`, { schema, version: 1, groups: ["b.c"] }), group: "b.c" },
        { topic: Topic.make(`${base}.a.b`, { schema, version: 1, groups: ["c"] }), group: "c" },
        { topic: Topic.make(`${base}.a.b.c`, { schema, version: 1, groups: ["dead", "retry"] }), group: "dead" },
        { topic: Topic.make(`${base}.a.b.c`, { schema, version: 1, groups: ["dead", "retry"] }), group: "retry" }
      ]
      const handled = pairs.map(() => new Map<string, number>())
      for (const [index, { group, topic }] of pairs.entries()) {
        yield* app.consume(
          topic,
          ({ n }, { attempt, id, topic: origin }) =>
            Effect.suspend(() => {
              handled[index]?.set(`${origin}/${id}`, attempt)
              // One is retried and then succeeds, the other dies.
              return n === 1 || attempt < 2 ? boom : Effect.void
            }),
          { group, maxAttempts: 2, onError: Consumer.retry(Schedule.spaced(20)) }
        )
      }
      for (const { topic } of pairs.slice(0, 3)) {
        for (const n of [0, 1]) yield* app.publish(topic, { n }, { id: `m${n}` })
      }
      const expected = pairs.map(({ topic }) => [`${topic.name}/m0`, `${topic.name}/m1`])
      yield* env.until(
        "each group handles its two messages twice",
        () => handled.every((of, index) => expected[index]?.every((key) => of.get(key) === 2)),
        () => show(handled.map((of) => [...of]))
      )
      for (const [index, of] of handled.entries()) {
        yield* checkEqual(
          [...of.keys()].toSorted(),
          expected[index],
          `what ${pairs[index]?.topic.name}/${pairs[index]?.group} got`
        )
      }
      if (!env.can("browse")) return { sent: 6, duplicates: 0 }
      for (const { group, topic } of pairs) {
        const letters = env.patiently(app.run(Stream.runCollect(DeadLetters.list(topic, { group }))))
        yield* env.untilEffect(
          `group "${group}" of "${topic.name}" has its dead letter and no other`,
          Effect.map(
            letters,
            (found) =>
              found.length > 0 && found.every(({ id, envelope }) => id === "m1" && envelope.topic === topic.name)
          )
        )
      }
      return { sent: 6, duplicates: 0 }
    })
}

const oddNames: Spec = {
  id: "odd-names",
  name: "odd names of topics and groups work, or are Rejected with InvalidName",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const odd = ["with space", "größe", "a/b", "a:b", "a*b", "a>b", "#ephemeral", "'; --", "x".repeat(150), "UPPER"]
      let sent = 0
      for (const name of odd) {
        for (const [topicName, group] of [
          [`${env.name()}${name}`, "g"],
          [env.name(), name]
        ] as const) {
          const topic = Topic.make(topicName, {
            schema: Schema.Struct({ n: Schema.Number }),
            version: 1,
            groups: [group]
          })
          const got: Array<string> = []
          const result = yield* Effect.result(
            Effect.scoped(
              Effect.gen(function* () {
                yield* app.consume(topic, (_, { id }) => Effect.sync(() => got.push(id)), { group })
                const id = yield* app.publish(topic, { n: 1 })
                sent++
                yield* env.until(`a message of topic "${topicName}" comes to group "${group}"`, () => got.includes(id))
              })
            )
          )
          if (Result.isSuccess(result)) continue
          const error = result.failure
          const isRefused =
            error instanceof BrokerError && error.reason._tag === "Rejected" && error.reason.code === "InvalidName"
          if (!isRefused) yield* fail(`topic "${topicName}", group "${group}": ${error.message}`, error)
        }
      }
      return { sent, duplicates: 0 }
    })
}

export const payloads: ReadonlyArray<Spec> = [unicode, bytes, wholeEnvelope, tooLarge, names, oddNames]
