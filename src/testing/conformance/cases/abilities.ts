/** What the driver says that it can, it can; what it says that it cannot, it refuses, and never leaves out in silence. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import type { Ability } from "../../../messaging/Broker.ts"
import { BrokerError } from "../../../messaging/BrokerError.ts"
import * as DeadLetters from "../../../messaging/DeadLetters.ts"
import type { Fixture } from "../Fixture.ts"
import type { App, Env, Spec } from "../Harness.ts"
import { check, checkEqual, fail, Log, needs, now, outgoing, show } from "../Harness.ts"
import { publishMany } from "./delivery.ts"

const nothing = { sent: 0, duplicates: 0 }

const declared: Spec = {
  id: "declared",
  name: "the driver says at run time what it can",
  run: (env) =>
    Effect.gen(function* () {
      const { driver } = yield* env.connect
      yield* checkEqual(driver.abilities, env.fixture.abilities, "the abilities")
      yield* checkEqual(driver.deadLetters !== undefined, env.can("browse"), "whether dead letters can be browsed")
      yield* check(/^[a-z][a-z0-9_.-]*$/.test(driver.system), `its system is ${show(driver.system)}`)
      yield* check(driver.maxMessageBytes >= 10_000, `its largest payload is ${driver.maxMessageBytes} bytes`)
      return nothing
    })
}

const lacks =
  (ability: Ability) =>
  ({ abilities }: Fixture): string | undefined =>
    abilities[ability] === "none" ? undefined : `the driver can ${ability}`

/** Fails where the effect succeeds, or fails with anything but `Unsupported`. */
const refused = <A, R>(env: Env, what: string, effect: Effect.Effect<A, unknown, R>) =>
  Effect.flatMap(Effect.result(env.patiently(effect)), (result) => {
    if (Result.isSuccess(result)) return fail(`the driver has no ${what} and accepts it all the same`)
    const error = result.failure
    return check(
      error instanceof BrokerError && error.reason._tag === "Rejected" && error.reason.code === "Unsupported",
      () => `asked for ${what}, which it has not, it should be Rejected with Unsupported, and says: ${show(error)}`
    )
  })

const refuses = (ability: Ability, ask: (env: Env, app: App) => Effect.Effect<void, unknown, never>): Spec => ({
  id: `refuses-${ability}`,
  name: `without ${ability}, asking for it is refused`,
  needs: lacks(ability),
  run: (env) =>
    Effect.as(
      Effect.flatMap(env.connect, (app) => ask(env, app)),
      nothing
    )
})

/** Nothing of what was refused arrives: of what is published afterwards, only that. */
const refusedPublish = (env: Env, app: App, what: "delay" | "priority") =>
  Effect.scoped(
    Effect.gen(function* () {
      const topic = env.topic("g")
      const value = { n: 0, key: "k" }
      yield* refused(env, what, app.run(topic.publish(value, { [what]: 1000 })))
      yield* refused(
        env,
        what,
        Effect.flatMap(app.driver.publish([outgoing(topic.name, "refused", { [what]: 1000 })]), ([answer]) =>
          answer?._tag === "Failed" ? Effect.fail(answer.error) : Effect.void
        )
      )
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      yield* env.all(log, [yield* app.publish(topic, value)])
    })
  )

const refusals: ReadonlyArray<Spec> = [
  refuses("delay", (env, app) => refusedPublish(env, app, "delay")),
  refuses("priority", (env, app) => refusedPublish(env, app, "priority")),
  refuses("order", (env, app) =>
    Effect.scoped(
      refused(
        env,
        "order",
        app.consume(env.topic("g"), () => Effect.void, { group: "g", order: "key" })
      )
    )
  ),
  refuses("replay", (env, app) =>
    Effect.scoped(
      Effect.gen(function* () {
        const consume = (replay: "earliest" | Date) =>
          app.consume(env.topic(), () => Effect.void, { group: "g", replay })
        yield* refused(env, "replay", consume("earliest"))
        yield* refused(env, "replay", consume(new Date(0)))
      })
    )
  ),
  refuses("browse", (env, app) => refused(env, "browse", app.run(Stream.runDrain(DeadLetters.list(env.topic("g"))))))
]

const replay: Spec = {
  id: "replay-old",
  name: "11 a new group sees what was published before it, from the beginning or from a time on",
  needs: needs("replay"),
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("first")
      const app = yield* env.connectBy(env.fixture.retain?.(topic.name) ?? env.fixture.layer)
      const [first, all, since] = [new Log(), new Log(), new Log()]
      yield* app.consume(topic, first.note, { group: "first" })
      const early = yield* publishMany(app, topic, env.count(200, 20))
      // Handled, and there for others all the same.
      yield* env.all(first, early)
      yield* Effect.sleep(20)
      const middle = new Date(yield* Effect.clockWith((clock) => clock.currentTimeMillis))
      yield* Effect.sleep(20)
      const late = yield* publishMany(app, topic, 10, 8, 1000)
      yield* app.consume(topic, all.note, { group: "all", replay: "earliest" })
      yield* app.consume(topic, since.note, { group: "since", replay: middle })
      const report = yield* env.all(all, [...early, ...late])
      yield* env.all(since, late)
      const more = yield* publishMany(app, topic, 10, 8, 2000)
      for (const log of [first, all]) yield* env.all(log, [...early, ...late, ...more])
      yield* env.all(since, [...late, ...more])
      return report
    })
}

const replayKnown: Spec = {
  id: "replay-known-group",
  name: "a group that exists goes on where it was, whatever it asks for",
  needs: needs("replay"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic()
      const ids = yield* publishMany(app, topic, 10)
      const [before, after] = [new Log(), new Log()]
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* app.consume(topic, before.note, { group: "g", replay: "earliest" })
          yield* env.all(before, ids)
        })
      )
      yield* app.consume(topic, after.note, { group: "g", replay: "earliest" })
      const next = yield* app.publish(topic, { n: 100, key: "k" })
      const report = yield* env.all(after, [next])
      return report
    })
}

const newGroup: Spec = {
  id: "new-group",
  name: "a new group that does not ask for the past begins with what is published from then on",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("first")
      const [first, second] = [new Log(), new Log()]
      yield* app.consume(topic, first.note, { group: "first" })
      const old = yield* publishMany(app, topic, 10)
      yield* env.all(first, old)
      yield* app.consume(topic, second.note, { group: "second" })
      const fresh = yield* publishMany(app, topic, 10, 8, 100)
      const report = yield* env.all(second, fresh)
      yield* env.all(first, [...old, ...fresh])
      return report
    })
}

const withoutGroup: Spec = {
  id: "without-group",
  name: "a message that no group has asked for yet is kept, or refused; it is not lost in silence",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic()
      const result = yield* Effect.result(app.publish(topic, { n: 0, key: "k" }))
      if (env.fixture.withoutGroup === "rejects") {
        yield* check(
          Result.isFailure(result) &&
            result.failure instanceof BrokerError &&
            result.failure.reason._tag === "Rejected" &&
            result.failure.reason.code === "NoGroup",
          () => `it should be Rejected with NoGroup: ${show(result)}`
        )
        return nothing
      }
      if (Result.isFailure(result)) return yield* fail(`it should be kept: ${result.failure.message}`, result.failure)
      const log = new Log()
      // The first group gets it, although it does not ask for the past: it would be nobody's else.
      yield* app.consume(topic, log.note, { group: "g" })
      return yield* env.all(log, [result.success])
    })
}

const delay: Spec = {
  id: "delay",
  name: "20 a delayed message comes at its time, and what is not delayed before it",
  needs: needs("delay"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const { lateness = 0 } = env.fixture
      const before = yield* now
      const delays = [900 + lateness, 300, 600]
      const delayed = yield* Effect.forEach(delays, (delay, n) => app.publish(topic, { n, key: "k" }, { delay }))
      const ids = [...delayed, yield* app.publish(topic, { n: 9, key: "k" })]
      // A publish that takes long, or has to be made again, may come after a delay that is over.
      const inTime = (yield* now) - before < Math.min(...delays)
      const report = yield* env.all(log, ids)
      if (env.calm && inTime)
        yield* checkTimes(
          [...log.ids],
          new Map([...delays, 0].map((delay, index) => [ids[index] ?? "", delay])),
          lateness
        )
      for (const [index, delay] of delays.entries()) {
        const waited = (log.of(ids[index] ?? "")[0]?.at ?? 0) - before
        yield* check(waited >= delay - 2, `a message with a delay of ${delay} ms came after ${waited}`)
      }
      return report
    })
}

/** Fails where what is not delayed came after what is, or something before what is due so much earlier. */
const checkTimes = (came: ReadonlyArray<string>, delays: ReadonlyMap<string, number>, lateness: number) => {
  const inOrder = came.map((id) => delays.get(id) ?? 0)
  const wrong = inOrder.findIndex((delay, index) =>
    inOrder.slice(0, index).some((before) => (delay === 0 ? before > 0 : before > delay + lateness))
  )
  return check(wrong < 0, () => `messages with delays of ${show(inOrder)} ms came in this order`)
}

const delayReopened: Spec = {
  id: "delay-reopened",
  name: "20 a delayed message comes at its time although nobody was there meanwhile, to every group",
  needs: needs("delay"),
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("a", "b")
      const before = yield* now
      const id = yield* Effect.scoped(
        Effect.flatMap(env.connect, (process) => process.publish(topic, { n: 0, key: "k" }, { delay: 500 }))
      )
      const app = yield* env.connect
      const logs = [new Log(), new Log()]
      for (const [index, log] of logs.entries()) yield* app.consume(topic, log.note, { group: index === 0 ? "a" : "b" })
      for (const log of logs) {
        yield* env.all(log, [id])
        const waited = (log.entries[0]?.at ?? 0) - before
        yield* check(waited >= 498, `a message with a delay of 500 ms came after ${waited}`)
      }
      return { sent: 1, duplicates: 0 }
    })
}

const priority: Spec = {
  id: "priority",
  name: "20 what waits comes by its priority, and in order within one",
  needs: needs("priority"),
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const priorities = [0, 3, 1, undefined, 3, 5, 1]
      yield* Effect.forEach(priorities, (priority, n) =>
        app.publish(topic, { n, key: `k${n}` }, priority === undefined ? {} : { priority })
      )
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g", concurrency: 1, prefetch: 1 })
      yield* env.until("all are handled", () => log.ids.size === priorities.length)
      const first = new Map(log.entries.toReversed().map(({ id, n }) => [id, n]))
      const came = [...new Set(log.entries.map(({ id }) => id))].map((id) => priorities[first.get(id) ?? 0] ?? 0)
      yield* checkEqual(
        came,
        came.toSorted((a, b) => b - a),
        "the priorities in the order in which they came"
      )
      const numbers = log.entries.map(({ n }) => n)
      yield* check(!env.calm || numbers.indexOf(1) < numbers.indexOf(4), "two of one priority changed places")
      return { sent: priorities.length, duplicates: log.entries.length - log.ids.size }
    })
}

export const abilities: ReadonlyArray<Spec> = [
  declared,
  ...refusals,
  replay,
  replayKnown,
  newGroup,
  withoutGroup,
  delay,
  delayReopened,
  priority
]
