/** What was set aside: whole, with its history, and given back where the broker can browse. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Consumer from "../../../messaging/Consumer.ts"
import * as DeadLetters from "../../../messaging/DeadLetters.ts"
import * as Topic from "../../../messaging/Topic.ts"
import type { App, Env, Numbered, Spec } from "../Harness.ts"
import { Boom, check, checkEqual, fail, Log, Numbered as NumberedSchema, needs, outgoing, show } from "../Harness.ts"
import { publishMany, untilEmpty } from "./delivery.ts"

const boom = Effect.fail(new Boom({ why: "on purpose" }))

const list = (env: Env, app: App, topic: Topic.Topic<Numbered>, filter: DeadLetters.Filter<Numbered> = {}) =>
  env.patiently(app.run(Stream.runCollect(DeadLetters.list(topic, filter))))

/** Waits until there are so many letters. */
const untilDead = (env: Env, app: App, topic: Topic.Topic<Numbered>, count: number) =>
  Effect.gen(function* () {
    let letters = yield* list(env, app, topic)
    yield* env.untilEffect(
      `there are ${count} dead letters`,
      Effect.map(list(env, app, topic), (found) => {
        letters = found
        return new Set(found.map(({ group, id }) => `${group}/${id}`)).size >= count
      }),
      () => `There are ${letters.length}.`
    )
    return letters
  })

/** A topic with so many dead letters of group `g`; the consumer is closed again. */
const withLetters = (env: Env, app: App, count: number) =>
  Effect.gen(function* () {
    const topic = env.topic("g", "other")
    const ids: Array<string> = []
    yield* Effect.scoped(
      Effect.gen(function* () {
        yield* app.consume(topic, () => boom, { group: "g", onError: Consumer.deadLetter })
        for (let n = 0; n < count; n++) {
          ids.push(yield* app.publish(topic, { n, key: "k" }))
          // One by one, so that they die in this order.
          yield* untilDead(env, app, topic, n + 1)
        }
        yield* untilEmpty(env, app, topic.name, "g")
      })
    )
    return { topic, ids }
  })

const deadLetter: Spec = {
  id: "dead-letter",
  name: "16 a message whose attempts are exhausted becomes a dead letter of its group, with its history",
  needs: needs("browse"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g", "other")
      const other = new Log()
      yield* app.consume(topic, () => boom, { group: "g", onError: Consumer.retry(Schedule.recurs(2)) })
      yield* app.consume(topic, other.note, { group: "other" })
      const value = { n: 5, key: "schlüssel" }
      const headers = { origin: "größe" }
      const id = yield* app.publish(topic, value, { headers, correlationId: "c-1" })
      const [letter, ...more] = yield* untilDead(env, app, topic, 1)
      if (letter === undefined) return yield* fail("there is no dead letter")
      yield* checkEqual(
        [letter.id, letter.topic, letter.group, letter.key, letter.reason, letter.replays],
        [id, topic.name, "g", value.key, "exhausted", 0],
        "id, topic, group, key, reason and replays of the letter"
      )
      yield* checkEqual(Result.isSuccess(letter.value) ? letter.value.success : undefined, value, "its payload")
      yield* checkEqual(letter.raw, new TextEncoder().encode(JSON.stringify(value)), "its bytes")
      yield* checkEqual([letter.envelope.headers, letter.envelope.correlationId], [headers, "c-1"], "its headers")
      yield* checkEqual(
        letter.attempts.map(({ attempt, tag }) => [attempt, tag]),
        [1, 2, 3].map((attempt) => [attempt, "Boom"]),
        "its attempts"
      )
      yield* check(
        letter.cause !== "" && letter.diedAt > 1_600_000_000_000,
        `its cause or time is missing: ${show(letter)}`
      )
      yield* env.all(other, [id])
      yield* checkEqual(yield* list(env, app, topic, { group: "other" }), [], "the dead letters of another group")
      yield* checkEqual(yield* list(env, app, topic, { ids: ["none"] }), [], "the dead letters of another id")
      return { sent: 1, duplicates: more.length }
    })
}

const replay: Spec = {
  id: "replay",
  name: "16 replayed letters go to their group alone, anew, and those that die again are not replayed in the same run",
  needs: needs("browse"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { ids, topic } = yield* withLetters(env, app, 6)
      yield* checkEqual(
        // In calm each is there once, in the order in which they died.
        [...new Set((yield* list(env, app, topic)).map(({ id }) => id))],
        ids,
        "the letters in their order"
      )
      const [log, other] = [new Log(), new Log()]
      yield* app.consume(topic, other.note, { group: "other" })
      yield* env.all(other, ids)
      yield* app.consume(
        topic,
        (value, envelope) => Effect.andThen(log.note(value, envelope), value.n === 0 ? boom : Effect.void),
        { group: "g", onError: Consumer.deadLetter }
      )
      const dry = yield* env.patiently(app.run(DeadLetters.replay(topic, { dryRun: true })))
      yield* check(dry.matched >= 6 && dry.replayed === 0, () => `a dry run says ${show(dry)}`)
      const limited = yield* env.patiently(app.run(DeadLetters.replay(topic, { limit: 2 })))
      yield* check(!env.calm || limited.replayed === 2, () => `a replay with limit 2 says ${show(limited)}`)
      const report = yield* env.patiently(app.run(DeadLetters.replay(topic)))
      yield* check(!env.calm || report.failed.length === 0, () => `some were not replayed: ${show(report.failed)}`)
      // One whose replay has failed is still there, as the report says.
      let stayed = report.failed.map(({ id }) => id)
      for (let n = 0; n < 10 && stayed.length > 0; n++) {
        const { failed } = yield* env.patiently(app.run(DeadLetters.replay(topic, { ids: stayed })))
        stayed = failed.map(({ id }) => id)
      }
      yield* env.all(log, ids)
      for (const { attempt, envelope, id } of log.entries) {
        yield* check(attempt === 1, `replayed ${id} came as attempt ${attempt}`)
        yield* check(envelope.replays >= 1, `replayed ${id} says that it was replayed ${envelope.replays} times`)
        yield* check(envelope.death === undefined, `replayed ${id} still says that it is dead`)
        yield* check((envelope.history?.attempts.length ?? 0) > 0, `replayed ${id} has lost its history`)
      }
      // The first died again: it is there, and was not replayed by the same run more than once.
      const letters = yield* untilDead(env, app, topic, 1)
      yield* checkEqual([...new Set(letters.map(({ id }) => id))], ids.slice(0, 1), "the letters after the replay")
      yield* untilEmpty(env, app, topic.name, "other")
      yield* check(!env.calm || other.entries.length === other.ids.size, "another group got some of them again")
      const replays = log.of(ids[0] ?? "").length
      yield* check(!env.calm || replays <= 2, `a letter that dies again was replayed ${replays} times by two runs`)
      // The one that dies again came twice rightly.
      return { sent: 6, duplicates: log.entries.filter(({ n }) => n !== 0).length - (log.ids.size - 1) }
    })
}

const twoReplays: Spec = {
  id: "two-replays",
  name: "two replays at the same time: every letter is replayed, once where the broker moves letters in one step",
  needs: needs("browse"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { ids, topic } = yield* withLetters(env, app, 10)
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const reports = yield* Effect.all(
        // What the broker did not take stays, and the report says so: then once more.
        [1, 2].map(() =>
          Effect.repeat(env.patiently(app.run(DeadLetters.replay(topic))), {
            until: ({ failed }) => failed.length === 0
          })
        ),
        { concurrency: "unbounded" }
      )
      const report = yield* env.all(log, ids)
      const replayed = reports.reduce((sum, { replayed }) => sum + replayed, 0)
      if (app.driver.deadLetters?.move !== undefined && env.calm) {
        yield* checkEqual(replayed, ids.length, "the letters that two replays say they replayed")
        yield* checkEqual(report.duplicates, 0, "the letters that were replayed twice")
      }
      yield* checkEqual(yield* list(env, app, topic), [], "the letters that are left")
      return report
    })
}

const purge: Spec = {
  id: "purge",
  name: "letters are found by id and reason, purged, and survive their group",
  needs: needs("browse"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { ids, topic } = yield* withLetters(env, app, 4)
      const [first = "", second = ""] = ids
      const found = yield* list(env, app, topic, { ids: [second], reason: "decision" })
      yield* checkEqual([...new Set(found.map(({ id }) => id))], [second], "the letter found by id and reason")
      yield* checkEqual(yield* list(env, app, topic, { reason: "undecodable" }), [], "the letters of another reason")
      const removed = yield* env.patiently(app.run(DeadLetters.purge(topic, { ids: [first] })))
      yield* check(!env.calm || removed === 1, `purging one letter says that it removed ${removed}`)
      yield* env.patiently(app.driver.removeGroup({ topic: topic.name, group: "g" }))
      const left = yield* list(env, app, topic)
      yield* checkEqual([...new Set(left.map(({ id }) => id))], ids.slice(1), "the letters after one was purged")
      yield* env.patiently(app.run(DeadLetters.purge(topic)))
      yield* checkEqual(yield* list(env, app, topic), [], "the letters after all were purged")
      return { sent: 4, duplicates: left.length - 3 }
    })
}

const undecodable: Spec = {
  id: "undecodable",
  name: "17 what cannot be decoded is set aside with its bytes as they are, and the next message flows",
  needs: needs("browse"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      yield* env.patiently(app.driver.declare({ topic: topic.name, groups: ["g"] }))
      const bodies: ReadonlyArray<readonly [id: string, body: Uint8Array]> = [
        ["no json", new Uint8Array([0xff, 0x00, 0x80, 0x0a, 0x0d])],
        ["empty", new Uint8Array(0)],
        ["another shape", new TextEncoder().encode('{"n":"five"}')]
      ]
      const headers = { kept: "jå" }
      yield* app.send(bodies.map(([id, body]) => outgoing(topic.name, id, { body, envelope: { headers, key: "k" } })))
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const next = yield* app.publish(topic, { n: 1, key: "k" })
      yield* env.all(log, [next])
      const letters = yield* untilDead(env, app, topic, bodies.length)
      for (const [id, body] of bodies) {
        const letter = letters.find((letter) => letter.id === id)
        yield* checkEqual(letter?.reason, "undecodable", `the reason of the letter "${id}"`)
        yield* checkEqual(letter?.raw, body, `the bytes of the letter "${id}"`)
        yield* checkEqual(letter?.envelope.headers, headers, `the headers of the letter "${id}"`)
        yield* check(letter !== undefined && Result.isFailure(letter.value), `the letter "${id}" can be decoded`)
      }
      return { sent: 4, duplicates: letters.length - bodies.length }
    })
}

const unknownVersion: Spec = {
  id: "unknown-version",
  name: "a version that nobody here knows waits for a newer consumer, or is set aside",
  needs: needs("browse"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const old = env.topic("g", "strict")
      const Newer = Schema.Struct({ n: Schema.Number, key: Schema.String, extra: Schema.String })
      const newer = Topic.make(old.name, {
        schema: Newer,
        version: 2,
        key: ({ key }) => key,
        upcast: { 1: Topic.upcast(NumberedSchema, (value) => ({ ...value, extra: "" })) },
        groups: ["g", "strict"]
      })
      const unknown = yield* app.publish(newer, { n: 2, key: "k", extra: "new" })
      const known = yield* app.publish(old, { n: 1, key: "k" })
      const [log, strict, modern] = [new Log(), new Log(), new Log()]
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* app.consume(old, log.note, { group: "g", unknownVersionDelay: 100 })
          yield* app.consume(old, strict.note, { group: "strict", onUnknownVersion: "deadLetter" })
          yield* env.all(log, [known])
          yield* env.all(strict, [known])
          const [letter] = yield* untilDead(env, app, old, 1)
          yield* checkEqual(
            [letter?.id, letter?.reason, letter?.group],
            [unknown, "unknownVersion", "strict"],
            "the letter"
          )
        })
      )
      yield* app.consume(newer, modern.note, { group: "g" })
      const report = yield* env.all(modern, [unknown])
      yield* checkEqual(modern.entries[0]?.attempt, 1, "the attempt at what had waited for a newer consumer")
      return { ...report, sent: 2 }
    })
}

const inOrder: Spec = {
  id: "dead-letter-in-order",
  name: "a dead letter in the middle of a key lets the rest of the key go on, in order",
  needs: needs("order"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const log = new Log()
      yield* app.consume(topic, (value, envelope) => (value.n % 4 === 1 ? boom : log.note(value, envelope)), {
        group: "g",
        order: "key",
        onError: Consumer.deadLetter
      })
      const ids = yield* publishMany(app, topic, 40, 2)
      // Key k1 has the odd numbers, of which every second one dies.
      yield* env.until(
        "what does not die is handled",
        () => log.ids.size >= 30,
        () => `It is ${log.ids.size} of 30.`
      )
      yield* untilEmpty(env, app, topic.name, "g")
      const numbers = log.firsts("k1")
      yield* checkEqual(
        numbers,
        numbers.toSorted((a, b) => a - b),
        "the order of the rest of the key"
      )
      return { sent: ids.length, duplicates: log.entries.length - log.ids.size }
    })
}

export const deadLetters: ReadonlyArray<Spec> = [
  deadLetter,
  replay,
  twoReplays,
  purge,
  undecodable,
  unknownVersion,
  inOrder
]
