/** Messages of one key run one at a time and in order, whatever happens to them, over all processes. */
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Schedule from "effect/Schedule"
import * as Consumer from "../../../messaging/Consumer.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import type { Fixture } from "../Fixture.ts"
import type { Env, Numbered, Spec } from "../Harness.ts"
import { Boom, check, checkEqual, checkOrder, fail, Log, needs, needsCalm, outgoing, seen } from "../Harness.ts"
import { acknowledge, idOf, quiet, settle, takeMany, takeRest } from "./contract.ts"
import { publishMany } from "./delivery.ts"

const orderInCalm = (fixture: Fixture): string | undefined => needs("order")(fixture) ?? needsCalm(fixture)

/** A handler that notes what it has done, and whether a key was ever in two places at once. */
const watched = (env: Env) => {
  const log = new Log()
  const running = new Map<string, string>()
  let overlap: string | undefined
  return {
    log,
    handler: (value: Numbered, envelope: Envelope, work: Effect.Effect<unknown, Boom>) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          const other = running.get(value.key)
          if (other !== undefined)
            overlap = `messages ${other} and ${value.n} of key "${value.key}" ran at the same time`
          running.set(value.key, String(value.n))
        }),
        () =>
          Effect.andThen(
            work,
            Effect.andThen(seen(value, envelope), (entry) => Effect.sync(() => log.add(entry)))
          ),
        () => Effect.sync(() => running.delete(value.key))
      ),
    check: Effect.suspend(() =>
      // What goes wrong on purpose may take a message away whose handler has not stopped yet.
      overlap !== undefined && env.calm ? fail(overlap) : checkOrder(log)
    )
  }
}

const keyHeld: Spec = {
  id: "key-held",
  name: "5 a message that is not acknowledged holds back its key, and no other",
  needs: needs("order"),
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const [one, two] = [yield* env.connect, yield* env.connect]
      const log = new Log()
      const open = Latch.makeUnsafe()
      const begun: Array<number> = []
      const handler = (value: Numbered, envelope: Envelope) =>
        Effect.gen(function* () {
          if (value.key === "held") {
            begun.push(value.n)
            yield* open.await
          }
          yield* log.note(value, envelope)
        })
      const options = { group: "g", order: "key", concurrency: 4, shutdownDeadline: 0 } as const
      yield* one.consume(topic, handler, options)
      yield* two.consume(topic, handler, options)
      const held = [yield* one.publish(topic, { n: 0, key: "held" })]
      yield* env.until("the first message of the key begins", () => begun.length > 0)
      held.push(yield* one.publish(topic, { n: 1, key: "held" }))
      // Many keys, so that each consumer has some that come after the second one.
      const others = yield* publishMany(one, topic, env.count(300, 60), 30)
      yield* env.until(
        "the messages of other keys are handled",
        () => others.every((id) => log.ids.has(id)),
        () => `Only ${log.ids.size} of ${others.length} are.`
      )
      yield* checkEqual(begun, [0], "what has begun of the key while its first message is held")
      yield* open.open
      const report = yield* env.all(log, [...held, ...others])
      yield* checkOrder(log)
      return report
    })
}

const order: Spec = {
  id: "order",
  name: "9 order per key under concurrency and in several processes, with failures in between",
  needs: needs("order"),
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const { check: inOrder, handler, log } = watched(env)
      const apps = yield* Effect.all([env.connect, env.connect])
      const failed = new Set<string>()
      const work = (value: Numbered, envelope: Envelope): Effect.Effect<unknown, Boom> => {
        const { id } = envelope
        if (value.n % 11 === 0 && !failed.has(id)) {
          failed.add(id)
          return Effect.fail(new Boom({ why: "the first time" }))
        }
        return value.n % 3 === 0 ? Effect.sleep(1) : Effect.yieldNow
      }
      for (const app of apps) {
        yield* app.consume(topic, (value, envelope) => handler(value, envelope, work(value, envelope)), {
          group: "g",
          order: "key",
          concurrency: 8,
          // Where things go wrong, leases are lost in between.
          ...(env.calm ? {} : { lease: env.lease }),
          onError: Consumer.retry(Schedule.spaced("20 millis"))
        })
      }
      const ids = yield* publishMany(apps[0], topic, env.count(1000, 160), 16)
      const report = yield* env.all(log, ids)
      yield* inOrder
      return report
    })
}

const orderReopened: Spec = {
  id: "order-reopened",
  name: "order per key is kept when consumers come and go",
  needs: needs("order"),
  longest: 8,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const { check: inOrder, handler, log } = watched(env)
      const app = yield* env.connect
      const ids = yield* publishMany(app, topic, env.count(1000, 100), 10)
      const consume = (shutdownDeadline: number) =>
        Effect.flatMap(env.connect, (process) =>
          process.consume(topic, (value, envelope) => handler(value, envelope, Effect.sleep(2)), {
            group: "g",
            order: "key",
            concurrency: 4,
            shutdownDeadline
          })
        )
      for (let round = 0; round < 5 && log.ids.size < ids.length; round++) {
        const had = log.ids.size
        yield* Effect.scoped(
          Effect.gen(function* () {
            yield* consume(0)
            yield* consume(1000)
            yield* env.until(
              `round ${round} handles some`,
              () => log.ids.size >= Math.min(ids.length, had + Math.ceil(ids.length / 8))
            )
          })
        )
      }
      yield* consume(1000)
      const report = yield* env.all(log, ids)
      yield* inOrder
      return report
    })
}

const retryHolds: Spec = {
  id: "retry-holds-key",
  name: "a message that is tried again later holds back its key until then, and no other",
  needs: needs("order"),
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const { check: inOrder, handler, log } = watched(env)
      const app = yield* env.connect
      const held = yield* Effect.forEach([0, 1, 2, 3, 4, 5], (n) => app.publish(topic, { n, key: "held" }))
      const others = yield* publishMany(app, topic, env.count(200, 40), 20)
      let failures = 0
      // With a prefetch that leaves most of the key at the broker, where the rest must wait as well.
      yield* app.consume(
        topic,
        (value, envelope) =>
          handler(
            value,
            envelope,
            value.key === "held" && value.n === 0 && failures++ < 2
              ? Effect.fail(new Boom({ why: "again" }))
              : Effect.void
          ),
        {
          group: "g",
          order: "key",
          concurrency: 2,
          prefetch: 3,
          onError: Consumer.retry(Schedule.spaced("300 millis"))
        }
      )
      yield* env.until("the others are handled", () => others.every((id) => log.ids.has(id)))
      const report = yield* env.all(log, [...held, ...others])
      yield* inOrder
      yield* check(failures >= 2, `it failed ${failures} times`)
      return report
    })
}

const takeAfterGivingBack: Spec = {
  id: "take-after-giving-back",
  name: "a take that begins after a message was given back brings nothing of its key before it",
  needs: orderInCalm,
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.name()
      yield* env.patiently(app.driver.declare({ topic, groups: ["g"] }))
      const ids = ["m0", "m1", "m2", "m3"]
      yield* app.send(ids.map((id) => outgoing(topic, id, { envelope: { key: "k" } })))
      const subscription = yield* app.subscribe({ topic, group: "g", order: "key", credit: 2 })
      // A driver may hand over one of a key at a time, or more.
      const [first, ...behind] = yield* takeRest(env, subscription)
      if (first === undefined) return yield* fail("nothing was handed over")
      yield* checkEqual([first, ...behind].map(idOf), ids.slice(0, behind.length + 1), "the first of the key")
      const envelope = { ...first.message.envelope, attempt: 2 }
      yield* settle(env, subscription, { _tag: "Retry", delivery: first, delay: quiet, envelope })
      for (const delivery of behind) yield* settle(env, subscription, { _tag: "Release", delivery })
      for (const [index, id] of ids.entries()) {
        const [next] = yield* takeMany(env, subscription, 1)
        if (next === undefined) return yield* fail("take answered nothing")
        yield* checkEqual(idOf(next), id, `message ${index} of the key after its first was given back`)
        yield* checkEqual(next.message.envelope.attempt, index === 0 ? 2 : 1, `the attempt at ${id}`)
        yield* acknowledge(env, subscription, [next])
      }
      return { sent: 4, duplicates: 0 }
    })
}

const oneSubscription: Spec = {
  id: "key-one-subscription",
  name: "a key is with one subscription at a time",
  needs: orderInCalm,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.name()
      const [one, two] = [yield* env.connect, yield* env.connect]
      yield* env.patiently(one.driver.declare({ topic, groups: ["g"] }))
      const options = { topic, group: "g", order: "key", credit: 1 } as const
      const [a, b] = [yield* one.subscribe(options), yield* two.subscribe(options)]
      yield* one.send(["m0", "m1"].map((id) => outgoing(topic, id, { envelope: { key: "k" } })))
      const takeAny = Effect.raceFirst(
        Effect.map(takeMany(env, a, 1), (deliveries) => ({ deliveries, holder: a, other: b })),
        Effect.map(takeMany(env, b, 1), (deliveries) => ({ deliveries, holder: b, other: a }))
      )
      const { deliveries, holder, other } = yield* takeAny
      yield* checkEqual(deliveries.map(idOf), ["m0"], "the first message of the key")
      const stolen = yield* takeRest(env, other)
      yield* checkEqual(stolen.map(idOf), [], "what another subscription gets of the key meanwhile")
      yield* acknowledge(env, holder, deliveries)
      const next = yield* takeAny
      yield* checkEqual(next.deliveries.map(idOf), ["m1"], "the second message of the key")
      yield* acknowledge(env, next.holder, next.deliveries)
      return { sent: 2, duplicates: 0 }
    })
}

export const ordering: ReadonlyArray<Spec> = [
  keyHeld,
  order,
  orderReopened,
  retryHolds,
  takeAfterGivingBack,
  oneSubscription
]
