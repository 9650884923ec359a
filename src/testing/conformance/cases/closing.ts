/** Closing and steering a consumer: nothing in flight is cut short, and what is given back costs no attempt. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import type { Spec } from "../Harness.ts"
import { Boom, check, checkEqual, Log, show } from "../Harness.ts"
import { publishMany } from "./delivery.ts"

const drain: Spec = {
  id: "drain",
  name: "19 a drain lets handlers in flight end, and returns what was prefetched without costing an attempt",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const open = Latch.makeUnsafe()
      let begun = 0
      const [first, second] = [new Log(), new Log()]
      const ids = yield* publishMany(app, topic, env.count(100, 20))
      const consumer = yield* app.consume(
        topic,
        (value, envelope) =>
          Effect.gen(function* () {
            begun++
            yield* open.await
            return yield* first.note(value, envelope)
          }),
        { group: "g", concurrency: 2, prefetch: 10 }
      )
      yield* env.untilEffect(
        "two handlers run and others are prefetched",
        Effect.map(consumer.accounting, ({ queued }) => begun === 2 && queued > 0)
      )
      const draining = yield* Effect.forkScoped(consumer.drain({ deadline: env.patience }))
      yield* env.untilEffect(
        "the consumer drains",
        Effect.map(consumer.health, ({ status }) => status === "draining")
      )
      yield* checkEqual(begun, 2, "the handlers that have begun")
      yield* open.open
      const report = yield* Fiber.join(draining)
      yield* checkEqual(first.entries.length, 2, "the handlers that ended during the drain")
      yield* checkEqual([report.drained, report.abandoned, report.unsettled], [2, [], []], "what the report says")
      yield* check(report.released > 0, () => `it had prefetched, and the report says ${show(report)}`)
      yield* app.consume(topic, second.note, { group: "g" })
      yield* env.until(
        "the next consumer gets the rest",
        () => ids.every((id) => first.ids.has(id) || second.ids.has(id)),
        () => `It got ${second.ids.size} of ${ids.length - 2}.`
      )
      const costly = second.entries.find(({ attempt }) => attempt !== 1)
      yield* check(
        costly === undefined,
        `message ${costly?.id} was only prefetched, and came again as attempt ${costly?.attempt}`
      )
      const twice = second.entries.filter(({ id }) => first.ids.has(id)).length
      return { sent: ids.length, duplicates: twice + second.entries.length - second.ids.size }
    })
}

const deadline: Spec = {
  id: "deadline",
  name: "19 at the deadline handlers are interrupted; their messages come again at the same attempt, and no error is decided",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      let decided = 0
      const exits: Array<Exit.Exit<unknown, unknown>> = []
      const id = yield* app.publish(topic, { n: 0, key: "k" })
      const consumer = yield* app.consume(
        topic,
        () => Effect.onExit(Effect.never, (exit) => Effect.sync(() => exits.push(exit))),
        {
          group: "g",
          onError: () => {
            decided++
            return { _tag: "DeadLetter" }
          },
          onDefect: () => {
            decided++
            return { _tag: "DeadLetter" }
          }
        }
      )
      yield* env.untilEffect(
        "the handler runs",
        Effect.map(consumer.accounting, ({ running }) => running > 0)
      )
      const report = yield* consumer.drain({ deadline: 20 })
      yield* check(
        report.drained === 0 &&
          report.abandoned.length === 0 &&
          report.released >= 1 &&
          (!env.calm || report.released === 1),
        () => `the report says ${show(report)}`
      )
      yield* check(
        exits.length >= 1 && exits.every((exit) => Exit.isFailure(exit) && Exit.hasInterrupts(exit)),
        "the handler was not interrupted"
      )
      yield* checkEqual(decided, 0, "the decisions about an interruption")
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const result = yield* env.all(log, [id])
      yield* checkEqual(
        [log.entries[0]?.attempt, log.entries[0]?.envelope.history],
        [1, undefined],
        "its attempt and history"
      )
      return result
    })
}

const resize: Spec = {
  id: "resize",
  name: "concurrency is obeyed, also when it is raised and lowered; a pause starts nothing, and a resume goes on",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const log = new Log()
      let [running, most] = [0, 0]
      const consumer = yield* app.consume(
        topic,
        (value, envelope) =>
          Effect.acquireUseRelease(
            Effect.sync(() => {
              most = Math.max(most, ++running)
            }),
            () => Effect.andThen(Effect.sleep(3), log.note(value, envelope)),
            () => Effect.sync(() => running--)
          ),
        { group: "g", concurrency: 2 }
      )
      const ids = [...(yield* publishMany(app, topic, 20))]
      yield* env.all(log, ids)
      yield* check(most <= 2, `${most} handlers ran with a concurrency of 2`)
      yield* consumer.resize(6)
      ids.push(...(yield* publishMany(app, topic, 40, 8, 100)))
      yield* env.all(log, ids)
      yield* check(most > 2 && most <= 6, `${most} handlers ran with a concurrency of 6`)
      yield* consumer.resize(1)
      most = 0
      ids.push(...(yield* publishMany(app, topic, 10, 8, 200)))
      yield* env.all(log, ids)
      yield* checkEqual(most, 1, "the handlers that ran with a concurrency of 1")
      yield* env.until("all handlers have ended", () => running === 0)
      yield* consumer.pause
      most = 0
      ids.push(...(yield* publishMany(app, topic, 10, 8, 300)))
      yield* Effect.sleep(100)
      yield* checkEqual(most, 0, "the handlers that ran during a pause")
      yield* consumer.resume
      return yield* env.all(log, ids)
    })
}

const failsInDrain: Spec = {
  id: "fails-in-drain",
  name: "a handler that fails while the consumer drains is a failure, counted and tried again by the next",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const open = Latch.makeUnsafe()
      const id = yield* app.publish(topic, { n: 0, key: "k" })
      const consumer = yield* app.consume(
        topic,
        () => Effect.andThen(open.await, Effect.fail(new Boom({ why: "late" }))),
        {
          group: "g"
        }
      )
      yield* env.untilEffect(
        "the handler runs",
        Effect.map(consumer.accounting, ({ running }) => running > 0)
      )
      const draining = yield* Effect.forkScoped(consumer.drain({ deadline: env.patience }))
      yield* env.untilEffect(
        "the consumer drains",
        Effect.map(consumer.health, ({ status }) => status === "draining")
      )
      yield* open.open
      const { accounting } = yield* Fiber.join(draining)
      yield* check(accounting.retried >= 1, () => `what failed was not retried: ${show(accounting)}`)
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const report = yield* env.all(log, [id])
      yield* checkEqual(log.entries[0]?.attempt, 2, "the attempt after a failure in the drain")
      return report
    })
}

export const closing: ReadonlyArray<Spec> = [drain, deadline, failsInDrain, resize]
