/**
 * The other process of the conformance suite: it publishes or consumes, tells what it does line by line, and is killed.
 */
import { writeSync } from "node:fs"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type { Ability, Broker } from "../../messaging/Broker.ts"
import * as Consumer from "../../messaging/Consumer.ts"
import * as Topic from "../../messaging/Topic.ts"
import { again, Numbered } from "./Harness.ts"

/** What the worker is to do; it travels in the environment. */
export const Task = Schema.Struct({
  role: Schema.Literals(["publish", "consume"]),
  topic: Schema.String,
  group: Schema.String,
  ordered: Schema.Boolean,
  lease: Schema.Number
})
export type Task = typeof Task.Type
export const TaskJson = Schema.fromJsonString(Task)

/** What the worker tells: it is ready, it has begun or done a message, or one of its own was confirmed. */
export const Line = Schema.Struct({
  what: Schema.Literals(["ready", "begun", "done", "confirmed"]),
  id: Schema.String,
  n: Schema.Number,
  key: Schema.String
})
export type Line = typeof Line.Type
export const LineJson = Schema.fromJsonString(Line)

export const taskVariable = "MILLRACE_CONFORMANCE_TASK"

/** Written at once, so that what was told before a kill has been told. */
const tell = (line: Line): Effect.Effect<void> =>
  Effect.sync(() => {
    writeSync(1, `${JSON.stringify(line)}\n`)
  })

/**
 * Runs what the conformance suite asks of another process, with this driver; to be called by a module of its own, which the
 * fixture names as its `worker`. It does not return: the suite kills it.
 */
export const conformanceWorker = (layer: Layer.Layer<Broker, unknown>): void => {
  const program = Effect.gen(function* () {
    const task = yield* Schema.decodeUnknownEffect(TaskJson)(process.env[taskVariable])
    const topic = Topic.make(task.topic, { schema: Numbered, version: 1, key: ({ key }) => key, groups: [task.group] })
    yield* task.role === "publish" ? publish(topic) : consume(topic, task)
    return yield* Effect.never
  })
  // The suite asks only for what the fixture says that the broker can.
  const all = layer as unknown as Layer.Layer<Broker<Ability>, unknown>
  Effect.runFork(
    Effect.scoped(program).pipe(
      Effect.provide(all),
      Effect.tapCause((cause) => Effect.logError("The conformance worker failed", cause)),
      Effect.onExit(() => Effect.sync(() => process.exit(1)))
    )
  )
}

/** One message after the other, each told when it is confirmed. */
const publish = (topic: Topic.Topic<Numbered>) =>
  Effect.gen(function* () {
    yield* tell({ what: "ready", id: "", n: 0, key: "" })
    for (let n = 0; ; n++) {
      const key = `k${n % 4}`
      const { id } = yield* topic.publish({ n, key })
      yield* tell({ what: "confirmed", id, n, key })
    }
  })

const consume = (topic: Topic.Topic<Numbered>, { group, lease, ordered }: Task) =>
  Effect.andThen(
    Consumer.make(
      topic,
      ({ key, n }, { id }) =>
        tell({ what: "begun", id, n, key }).pipe(
          Effect.andThen(Effect.sleep(n % 7)),
          Effect.andThen(tell({ what: "done", id, n, key }))
        ),
      { group, concurrency: 4, lease, onDefect: again, ...(ordered ? { order: "key" as const } : {}) }
    ),
    tell({ what: "ready", id: "", n: 0, key: "" })
  )
