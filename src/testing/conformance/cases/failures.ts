/** Handlers that fail: tried again with their attempts counted, in time, across restarts, and set aside in the end. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Consumer from "../../../messaging/Consumer.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import type { Numbered, Seen, Spec } from "../Harness.ts"
import { again, Boom, check, checkEqual, Log, needsCalm, outgoing, show } from "../Harness.ts"
import { takeOne } from "./contract.ts"
import { allOnce, publishMany, untilEmpty } from "./delivery.ts"

const boom = Effect.fail(new Boom({ why: "on purpose" }))

/** Notes every attempt in `tried`, and in `done` those that succeed. */
const failing = (fails: (value: Numbered, envelope: Envelope) => boolean) => {
  const [tried, done] = [new Log(), new Log()]
  const handler = (value: Numbered, envelope: Envelope): Effect.Effect<Seen, Boom> =>
    Effect.andThen(
      tried.note(value, envelope),
      Effect.suspend(() => (fails(value, envelope) ? boom : done.note(value, envelope)))
    )
  return { tried, done, handler }
}

const redelivery: Spec = {
  id: "redelivery",
  name: "4 failed handlers get their message again, with its attempts counted and a history",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const { done, handler, tried } = failing(({ n }, { attempt }) => n % 3 === 0 && attempt <= 2)
      yield* app.consume(topic, handler, { group: "g" })
      const ids = yield* publishMany(app, topic, env.count(100, 30))
      const report = yield* allOnce(env, app, topic, "g", done, ids)
      for (const id of ids) {
        const attempts = [...new Set(tried.of(id).map(({ attempt }) => attempt))]
        const fails = (tried.of(id)[0]?.n ?? 0) % 3 === 0
        yield* checkEqual(attempts, fails ? [1, 2, 3] : [1], `the attempts at message ${tried.of(id)[0]?.n}`)
        const history = done.of(id)[0]?.envelope.history?.attempts ?? []
        yield* checkEqual(
          history.map(({ attempt, message, tag }) => [attempt, tag, message]),
          fails ? [1, 2].map((attempt) => [attempt, "Boom", history[0]?.message]) : [],
          `the history of message ${tried.of(id)[0]?.n}`
        )
      }
      return report
    })
}

const failuresThenSuccess: Spec = {
  id: "failures-then-success",
  name: "8 repeated failure in one consumer after the other, then success; every failure was counted",
  longest: 8,
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const ids = yield* publishMany(app, topic, env.count(50, 12))
      let broken = true
      const { done, handler, tried } = failing(() => broken)
      for (const round of [1, 2, 3]) {
        const had = tried.entries.length
        yield* Effect.scoped(
          Effect.gen(function* () {
            const process = yield* env.connect
            yield* process.consume(topic, handler, { group: "g", maxAttempts: 1000, maxDeliveries: 100_000 })
            yield* env.until(`consumer ${round} gets messages`, () => tried.entries.length >= had + ids.length)
          })
        )
      }
      broken = false
      yield* app.consume(topic, handler, { group: "g", maxAttempts: 1000, maxDeliveries: 100_000 })
      const report = yield* env.all(done, ids)
      for (const id of ids) {
        const failures = tried.of(id).length - done.of(id).length
        const attempt = done.of(id)[0]?.attempt ?? 0
        yield* check(
          attempt > 1 && attempt <= failures + 1,
          `message ${id} failed ${failures} times and succeeded as attempt ${attempt}`
        )
        // A failure whose record was lost comes again under its number; in calm none is.
        yield* check(
          !env.calm || attempt === failures + 1,
          `message ${id} failed ${failures} times, and its attempt is ${attempt}`
        )
      }
      return report
    })
}

const backoff: Spec = {
  id: "backoff",
  name: "15 the times of retries and the count of attempts survive a restart of the consumer",
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const { done, handler, tried } = failing((_, { attempt }) => attempt <= 3)
      const delay = 200
      const consume = Effect.flatMap(env.connect, (process) =>
        process.consume(topic, handler, {
          group: "g",
          onError: Consumer.retry(Schedule.exponential(delay))
        })
      )
      const app = yield* env.connect
      const id = yield* app.publish(topic, { n: 0, key: "k" })
      for (const attempt of [1, 2]) {
        yield* Effect.scoped(
          Effect.andThen(
            consume,
            env.until(`attempt ${attempt} is made`, () => tried.of(id).some((entry) => entry.attempt === attempt))
          )
        )
      }
      yield* consume
      const report = yield* env.all(done, [id])
      const firsts = [1, 2, 3, 4].map((attempt) => tried.of(id).find((entry) => entry.attempt === attempt))
      yield* check(
        firsts.every((entry) => entry !== undefined),
        () => `the attempts were ${show(tried.of(id).map(({ attempt }) => attempt))} instead of 1 to 4`
      )
      for (const index of [1, 2, 3]) {
        const waited = (firsts[index]?.at ?? 0) - (firsts[index - 1]?.at ?? 0)
        const least = delay * 2 ** (index - 1)
        // Clocks that count whole milliseconds may be one early.
        yield* check(waited >= least - 2, `attempt ${index + 1} came ${waited} ms after the one before, not ${least}`)
      }
      return report
    })
}

const exhausted: Spec = {
  id: "exhausted",
  name: "16 a message whose attempts are exhausted is not handled again, and the next one flows",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const { done, handler, tried } = failing(({ n }) => n === 0)
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* app.consume(topic, handler, { group: "g", maxAttempts: 3 })
          const [bad, good] = [
            yield* app.publish(topic, { n: 0, key: "k" }),
            yield* app.publish(topic, { n: 1, key: "k" })
          ]
          yield* env.all(done, [good])
          yield* env.until("the bad one has had its three attempts", () =>
            tried.of(bad).some(({ attempt }) => attempt === 3)
          )
          yield* untilEmpty(env, app, topic.name, "g")
        })
      )
      // It would come to the next consumer.
      yield* app.consume(topic, handler, { group: "g", maxAttempts: 3 })
      const last = yield* app.publish(topic, { n: 2, key: "k" })
      yield* env.until("a later message is handled", () => done.ids.has(last))
      const attempts = tried.entries.filter(({ n }) => n === 0).map(({ attempt }) => attempt)
      yield* checkEqual(env.calm ? attempts : [...new Set(attempts)], [1, 2, 3], "the attempts at the bad one")
      return { sent: 3, duplicates: 0 }
    })
}

const decisions: Spec = {
  id: "decisions",
  name: "an error that says drop is acknowledged, one that says delay comes back after its time",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const { done, handler, tried } = failing(({ n }, { attempt }) => n === 0 || (n === 1 && attempt === 1))
      const delay = 300
      yield* app.consume(topic, handler, {
        group: "g",
        onError: (_, { key }) => (key === "drop" ? Consumer.drop("it is stale") : Consumer.delay(delay))
      })
      const dropped = yield* app.publish(topic, { n: 0, key: "drop" })
      const delayed = yield* app.publish(topic, { n: 1, key: "delay" })
      yield* env.all(done, [delayed])
      yield* untilEmpty(env, app, topic.name, "g")
      const [first, second] = [1, 2].map((attempt) => tried.of(delayed).find((entry) => entry.attempt === attempt))
      const waited = (second?.at ?? 0) - (first?.at ?? 0)
      yield* check(waited >= delay - 2, `the delayed one came after ${waited} ms, not ${delay}`)
      const attempts = tried.of(dropped).map(({ attempt }) => attempt)
      yield* checkEqual(env.calm ? attempts : [...new Set(attempts)], [1], "the attempts at the dropped one")
      return { sent: 2, duplicates: 0 }
    })
}

const deciderDies: Spec = {
  id: "decider-dies",
  name: "an onError that throws is a defect of its message alone: it is tried again, and the others flow",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const { done, handler } = failing(({ n }, { attempt }) => n % 5 === 0 && attempt === 1)
      yield* app.consume(topic, handler, {
        group: "g",
        onError: () => {
          throw new Error("the decision itself is broken")
        },
        onDefect: again
      })
      const ids = yield* publishMany(app, topic, 20)
      const report = yield* env.all(done, ids)
      const late = done.entries.filter(({ attempt, n }) => (n % 5 === 0) !== (attempt === 2))
      yield* check(late.length === 0, () => `these succeeded at another attempt than they should: ${show(late)}`)
      return report
    })
}

const crashed: Spec = {
  id: "crashed",
  name: "a message that is delivered again and again and never settled is set aside unrun, where deliveries are counted",
  needs: needsCalm,
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const bad = yield* app.publish(topic, { n: 0, key: "k" })
      const counts: Array<number | undefined> = []
      for (let round = 0; round < 4; round++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const subscription = yield* app.subscribe({ topic: topic.name, group: "g" })
            counts.push((yield* takeOne(env, subscription)).deliveries)
          })
        )
      }
      if (counts[0] !== undefined) {
        yield* check(
          counts.every((count, index) => index === 0 || (count ?? 0) > (counts[index - 1] ?? 0)),
          `the deliveries were counted as ${show(counts)}`
        )
      }
      const log = new Log()
      const consumer = yield* app.consume(topic, log.note, { group: "g", maxDeliveries: 3 })
      const good = yield* app.publish(topic, { n: 1, key: "k" })
      yield* env.until("the next message is handled", () => log.ids.has(good))
      if (counts[0] === undefined) {
        yield* env.all(log, [bad, good])
      } else {
        yield* env.untilEffect(
          "the message is set aside",
          Effect.map(consumer.accounting, ({ deadLettered }) => deadLettered > 0)
        )
        yield* checkEqual([...log.ids], [good], "what was run")
      }
      return { sent: 2, duplicates: 0 }
    })
}

const foreignAttempt: Spec = {
  id: "foreign-attempt",
  name: "an attempt that a foreign publisher made up does not end a message",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      yield* env.patiently(app.driver.declare({ topic: topic.name, groups: ["g"] }))
      const body = new TextEncoder().encode(JSON.stringify({ n: 7, key: "k" }))
      yield* app.send([outgoing(topic.name, "odd", { body, envelope: { attempt: 1e20 } })])
      const { done, handler } = failing((_, { attempt }) => attempt === 1)
      yield* app.consume(topic, handler, { group: "g" })
      const report = yield* env.all(done, ["odd"])
      yield* checkEqual(done.of("odd")[0]?.attempt, 2, "the attempt that succeeds")
      return report
    })
}

export const failures: ReadonlyArray<Spec> = [
  redelivery,
  failuresThenSuccess,
  backoff,
  exhausted,
  decisions,
  deciderDies,
  crashed,
  foreignAttempt
]
