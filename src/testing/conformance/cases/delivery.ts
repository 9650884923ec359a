/** Everything arrives, whole, at every group; nothing else does. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Topic from "../../../messaging/Topic.ts"
import type { App, Env, Numbered, Spec } from "../Harness.ts"
import { check, checkEqual, checkOrder, Log, show } from "../Harness.ts"

/** Publishes so many messages, each to one of `keys` keys in turn; answers their ids. */
export const publishMany = (app: App, topic: Topic.Topic<Numbered>, count: number, keys = 8, first = 0) =>
  Effect.forEach(
    Array.from({ length: keys }, (_, key) => key),
    (key) =>
      Effect.forEach(
        Array.from({ length: Math.ceil((count - key) / keys) }, (_, index) => first + key + index * keys),
        // One after the other within a key, so that its numbers are its order.
        (n) => app.publish(topic, { n, key: `k${key}` })
      ),
    { concurrency: "unbounded" }
  ).pipe(Effect.map((ids) => ids.flat()))

/** Waits until the broker has nothing more for the group, where it can say. */
export const untilEmpty = (env: Env, app: App, topic: string, group: string) =>
  env.untilEffect(
    `nothing waits for group "${group}"`,
    Effect.map(
      env.patiently(app.driver.backlog({ topic, group })),
      ({ inFlight = 0, waiting = 0 }) => waiting === 0 && inFlight === 0
    )
  )

/** Waits until all of these are handled and nothing is left; in calm, none of them may have come twice. */
export const allOnce = (
  env: Env,
  app: App,
  topic: { readonly name: string },
  group: string,
  log: Log,
  expected: ReadonlyArray<string>
) =>
  Effect.gen(function* () {
    yield* env.all(log, expected)
    yield* untilEmpty(env, app, topic.name, group)
    const report = yield* env.all(log, expected)
    yield* check(
      !env.calm || report.duplicates === 0,
      `${report.duplicates} of ${report.sent} messages were handled more than once, although nothing went wrong`
    )
    return report
  })

const roundTrip: Spec = {
  id: "round-trip",
  name: "1 publish, then consume: ids, payloads, keys and headers are exact, and nothing comes twice",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const before = yield* Clock.currentTimeMillis
      const sent = yield* Effect.forEach(
        Array.from({ length: env.count(100, 20) }, (_, n) => n),
        (n) => {
          const headers: Record<string, string> = n % 3 === 0 ? {} : { [`h${n}`]: `value ${n}`, plain: "yes" }
          const correlationId = n % 2 === 0 ? `c${n}` : undefined
          const value = { n, key: `k${n % 5}` }
          return Effect.map(app.publish(topic, value, { headers, correlationId }), (id) => ({
            id,
            value,
            headers,
            correlationId
          }))
        },
        { concurrency: 8 }
      )
      const after = yield* Clock.currentTimeMillis
      const log = new Log()
      const ids = sent.map(({ id }) => id)
      yield* Effect.scoped(
        Effect.andThen(app.consume(topic, log.note, { group: "g" }), allOnce(env, app, topic, "g", log, ids))
      )
      for (const { correlationId, headers, id, value } of sent) {
        const [entry] = log.of(id)
        const { envelope } = entry ?? {}
        yield* checkEqual({ n: entry?.n, key: entry?.key }, value, `the payload of ${id}`)
        yield* checkEqual(envelope?.headers, headers, `the headers of ${id}`)
        yield* checkEqual(envelope?.correlationId, correlationId, `the correlation id of ${id}`)
        yield* checkEqual(
          [envelope?.topic, envelope?.key, envelope?.version, envelope?.attempt, envelope?.replays],
          [topic.name, value.key, 1, 1, 0],
          `topic, key, version, attempt and replays of ${id}`
        )
        yield* checkEqual([envelope?.history, envelope?.death], [undefined, undefined], `history and death of ${id}`)
        yield* checkEqual(envelope?.contentType, "application/json", `the content type of ${id}`)
        const { source = "", timestamp = 0 } = envelope ?? {}
        yield* check(source !== "", `${id} has no source`)
        yield* check(
          timestamp >= before && timestamp <= after,
          `${id} was published at ${timestamp}, which is not between ${before} and ${after}`
        )
      }
      // What was acknowledged does not come again.
      yield* app.consume(topic, log.note, { group: "g" })
      const last = yield* app.publish(topic, { n: -1, key: "last" })
      return yield* allOnce(env, app, topic, "g", log, [...ids, last])
    })
}

const manyToMany: Spec = {
  id: "many-to-many",
  name: "2 many publishers and consumers at once",
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const log = new Log()
      const apps = yield* Effect.all([env.connect, env.connect, env.connect])
      for (const app of [...apps, ...apps]) yield* app.consume(topic, log.note, { group: "g", concurrency: 8 })
      const publishers = env.count(50, 9)
      const each = Math.ceil(env.count(5000, 200) / publishers)
      const ids = yield* Effect.forEach(
        Array.from({ length: publishers }, (_, publisher) => publisher),
        (publisher) => {
          const app = apps[publisher % apps.length] ?? apps[0]
          return Effect.forEach(Array.from({ length: each }), (_, n) => app.publish(topic, { n, key: `p${publisher}` }))
        },
        { concurrency: "unbounded" }
      )
      return yield* env.all(log, ids.flat())
    })
}

const manyTopics: Spec = {
  id: "many-topics",
  name: "3 many topics at once do not mix",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const reports = yield* Effect.forEach(
        Array.from({ length: env.count(20, 5) }),
        () =>
          Effect.gen(function* () {
            const topic = env.topic("g")
            const log = new Log()
            yield* app.consume(topic, log.note, { group: "g" })
            const ids = yield* publishMany(app, topic, env.count(100, 20))
            const report = yield* env.all(log, ids)
            const foreign = log.entries.find(({ envelope }) => envelope.topic !== topic.name)
            yield* check(foreign === undefined, `a message of topic ${foreign?.envelope.topic} came to ${topic.name}`)
            return report
          }),
        { concurrency: "unbounded" }
      )
      return {
        sent: reports.reduce((sum, { sent }) => sum + sent, 0),
        duplicates: reports.reduce((sum, { duplicates }) => sum + duplicates, 0)
      }
    })
}

const reopen: Spec = {
  id: "reopen",
  name: "6 consumers are closed in the middle and opened again until all is read: nothing is lost",
  longest: 8,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const log = new Log()
      const app = yield* env.connect
      const ids = yield* publishMany(app, topic, env.count(1000, 60))
      const fifth = Math.ceil(ids.length / 5)
      // Slow enough for some to be running when their consumer closes.
      const handler: typeof log.note = (value, envelope) => Effect.andThen(Effect.sleep(2), log.note(value, envelope))
      for (let round = 0; round < 20 && log.ids.size < ids.length; round++) {
        const had = log.ids.size
        yield* Effect.scoped(
          Effect.gen(function* () {
            const process = yield* env.connect
            yield* process.consume(topic, handler, { group: "g", concurrency: 4, shutdownDeadline: 0 })
            yield* env.until(
              `round ${round} handles a fifth of what is there`,
              () => log.ids.size >= Math.min(ids.length, had + fifth),
              () => `It handled ${log.ids.size - had} of ${ids.length}.`
            )
          })
        )
      }
      yield* app.consume(topic, handler, { group: "g" })
      const report = yield* env.all(log, ids)
      const late = log.entries.find(({ attempt }) => attempt !== 1)
      yield* check(
        late === undefined,
        `closing a consumer cost message ${late?.id} an attempt: it came as ${late?.attempt}`
      )
      return report
    })
}

const openAndClose: Spec = {
  id: "open-close",
  name: "7 consumers open and close at the same time while messages come: nothing is lost",
  longest: 8,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const log = new Log()
      const app = yield* env.connect
      const half = env.count(100, 20)
      const comeAndGo = Effect.forEach(
        Array.from({ length: env.count(10, 3) }),
        () =>
          Effect.gen(function* () {
            const process = yield* env.connect
            yield* Effect.scoped(process.consume(topic, log.note, { group: "g" }))
            yield* Effect.scoped(process.consume(topic, log.note, { group: "g", shutdownDeadline: 0 }))
          }).pipe(Effect.scoped),
        { concurrency: "unbounded", discard: true }
      )
      const [first] = yield* Effect.all([publishMany(app, topic, half), comeAndGo], { concurrency: "unbounded" })
      const second = yield* publishMany(app, topic, half, 8, half)
      yield* app.consume(topic, log.note, { group: "g" })
      return yield* env.all(log, [...first, ...second])
    })
}

const twoGroups: Spec = {
  id: "groups",
  name: "10 two groups each get everything",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("a", "b")
      const [a, b] = [new Log(), new Log()]
      yield* app.consume(topic, a.note, { group: "a" })
      const ids = yield* publishMany(app, topic, env.count(500, 30))
      const first = yield* allOnce(env, app, topic, "a", a, ids)
      yield* app.consume(topic, b.note, { group: "b" })
      const second = yield* allOnce(env, app, topic, "b", b, ids)
      return { sent: ids.length, duplicates: first.duplicates + second.duplicates }
    })
}

const publishAll: Spec = {
  id: "publish-all",
  name: "a batch is confirmed message by message, in order, under ids of their own",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const values = Array.from({ length: env.count(1000, 100) }, (_, n) => ({ n, key: `k${n % 7}` }))
      const batch = env.patiently(app.run(topic.publishAll(values, { headers: { batch: "yes" } })))
      // What was not confirmed is sent once more, all of it.
      const receipts = yield* env.calm ? batch : Effect.retry(batch, { times: 200 })
      yield* checkEqual(receipts.length, values.length, "the number of receipts")
      yield* checkEqual(new Set(receipts.map(({ id }) => id)).size, values.length, "the number of different ids")
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g", ...(env.can("order") ? { order: "key" } : {}) })
      yield* env.until("all of the batch are handled", () => receipts.every(({ id }) => log.ids.has(id)))
      const wrong = receipts.findIndex(({ id }, n) => log.of(id)[0]?.n !== n)
      yield* check(wrong < 0, `receipt ${wrong} is that of another message: ${show(log.of(receipts[wrong]?.id ?? ""))}`)
      if (env.can("order") && env.calm) yield* checkOrder(log)
      return { sent: values.length, duplicates: log.entries.length - values.length }
    })
}

const backpressure: Spec = {
  id: "backpressure",
  name: "22 a slow consumer holds no more than its prefetch, whatever waits",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const ids = yield* publishMany(app, topic, env.count(1000, 200))
      const log = new Log()
      const prefetch = 8
      const consumer = yield* app.consume(
        topic,
        (value, envelope) => Effect.andThen(Effect.yieldNow, log.note(value, envelope)),
        { group: "g", concurrency: 2, prefetch }
      )
      let most = 0
      const look = Effect.map(consumer.accounting, ({ queued, running, settling }) => {
        most = Math.max(most, queued + running + settling)
      })
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(look, Effect.yieldNow)))
      const report = yield* env.all(log, ids)
      yield* check(most <= prefetch, `it held ${most} messages with a prefetch of ${prefetch}`)
      return report
    })
}

export const delivery: ReadonlyArray<Spec> = [
  roundTrip,
  manyToMany,
  manyTopics,
  reopen,
  openAndClose,
  twoGroups,
  publishAll,
  backpressure
]
