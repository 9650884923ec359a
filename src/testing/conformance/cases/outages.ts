/** The broker goes away, or the way to it does, and comes back: nothing is lost, and nobody has to subscribe again. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import { BrokerError } from "../../../messaging/BrokerError.ts"
import type * as Topic from "../../../messaging/Topic.ts"
import type { Fixture } from "../Fixture.ts"
import type { App, CaseReport, Env, Numbered, Spec } from "../Harness.ts"
import { check, checkOrder, fail, Log, needsHook, now } from "../Harness.ts"

/** Publishes one message until it is confirmed, through any number of outages, under one id. */
const publishThrough = (app: App, topic: Topic.Topic<Numbered>, value: Numbered) => {
  const id = crypto.randomUUID()
  const publish = app.run(topic.publish(value, { id }))
  const unreachable = (error: unknown) => error instanceof BrokerError && error.reason._tag === "Unavailable"
  return Effect.as(
    // A publish that is not answered within some seconds is made again.
    Effect.timeoutOption(publish, "5 seconds").pipe(
      Effect.flatMap((answer) => (answer._tag === "None" ? Effect.fail("no answer" as const) : Effect.void)),
      Effect.tapError(() => Effect.sleep(50)),
      Effect.retry({ while: (error) => error === "no answer" || unreachable(error) })
    ),
    id
  )
}

/** Load from several publishers while `disturb` runs twice; one consumer stays open throughout. */
const underLoad = (env: Env, disturb: Effect.Effect<void, unknown>): Effect.Effect<CaseReport, unknown, never> =>
  Effect.scoped(
    Effect.gen(function* () {
      const topic = env.topic("g")
      const [producer, app] = [yield* env.connect, yield* env.connect]
      const log = new Log()
      const ordered = env.can("order") ? ({ order: "key" } as const) : {}
      yield* app.consume(topic, log.note, { group: "g", concurrency: 8, ...ordered })
      const publishers = 10
      const each = Math.ceil(env.count(10_000, 300) / publishers)
      let published = 0
      const load = yield* Effect.forkChild(
        Effect.forEach(
          Array.from({ length: publishers }, (_, key) => key),
          (key) =>
            Effect.forEach(
              Array.from({ length: each }, (_, n) => n),
              (n) =>
                Effect.tap(publishThrough(producer, topic, { n, key: `k${key}` }), () =>
                  Effect.andThen(
                    Effect.sync(() => published++),
                    Effect.sleep(n % 10 === 0 ? 5 : 0)
                  )
                )
            ),
          { concurrency: "unbounded" }
        ),
        { startImmediately: true }
      )
      for (const part of [1, 2]) {
        yield* env.until(
          `part ${part} of the load is published`,
          () => published >= (publishers * each * part) / 3,
          undefined,
          env.patience * 4
        )
        yield* disturb
      }
      const ids = (yield* Fiber.join(load)).flat()
      const report = yield* env
        .until(
          "everything confirmed is handled",
          () => ids.every((id) => log.ids.has(id)),
          () => `${ids.filter((id) => !log.ids.has(id)).length} of ${ids.length} are missing.`,
          env.patience * 4
        )
        .pipe(Effect.andThen(env.all(log, ids)))
      if (env.can("order")) yield* checkOrder(log)
      return report
    })
  )

const hook = (fixture: Fixture, name: "restart" | "crash"): Effect.Effect<void, unknown> =>
  fixture[name] ?? fail(`the fixture gives no ${name}`)

const restart: Spec = {
  id: "restart",
  name: "12 the broker is restarted twice under load: all that was confirmed arrives, and nobody subscribes again",
  needs: needsHook("restart"),
  longest: 12,
  run: (env) => underLoad(env, hook(env.fixture, "restart"))
}

const crash: Spec = {
  id: "broker-crash",
  name: "12 the broker is killed twice under load: all that was confirmed arrives",
  needs: needsHook("crash"),
  longest: 12,
  run: (env) => underLoad(env, hook(env.fixture, "crash"))
}

const blackHole: Spec = {
  id: "black-hole",
  name: "14 packets disappear without a word: publishers hear of it in time, and consumption goes on when they come back",
  needs: needsHook("blackHole"),
  longest: 12,
  run: (env) =>
    Effect.gen(function* () {
      const hole = env.fixture.blackHole
      if (hole === undefined) return yield* fail("the fixture gives no blackHole")
      const topic = env.topic("g")
      const [cut, direct] = [yield* env.connectBy(hole.layer), yield* env.connect]
      const log = new Log()
      yield* cut.consume(topic, log.note, { group: "g", ...(env.fixture.lease === "none" ? {} : { lease: env.lease }) })
      const ids = [yield* direct.publish(topic, { n: 0, key: "k" })]
      yield* env.all(log, ids)
      yield* Effect.addFinalizer(() => Effect.ignore(hole.end))
      yield* hole.begin
      const before = yield* now
      const lost = yield* Effect.timeoutOption(
        Effect.exit(cut.run(topic.publish({ n: 1, key: "k" }))),
        env.patience * 4
      )
      yield* check(lost._tag === "Some", `a publish into a black hole has not ended within ${env.patience * 4} ms`)
      yield* check(
        lost._tag === "Some" && lost.value._tag === "Failure",
        `a publish into a black hole was confirmed after ${(yield* now) - before} ms`
      )
      for (let n = 2; n < 12; n++) ids.push(yield* direct.publish(topic, { n, key: "k" }))
      yield* hole.end
      yield* env.until(
        "what was published meanwhile is handled",
        () => ids.every((id) => log.ids.has(id)),
        () => `${ids.filter((id) => !log.ids.has(id)).length} of ${ids.length} are missing.`,
        env.patience * 4
      )
      // The publish whose answer was lost may have happened.
      return { sent: ids.length, duplicates: log.entries.length - log.ids.size }
    })
}

export const outages: ReadonlyArray<Spec> = [restart, crash, blackHole]
