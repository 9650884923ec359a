/** Processes die by SIGKILL, and the history of what they did is checked: nothing is lost, order holds, duplicates are counted. */
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Env, Spec } from "../Harness.ts"
import { check, fail, Log, needsHook, show } from "../Harness.ts"
import type { Line, Task } from "../worker.ts"
import { LineJson, taskVariable } from "../worker.ts"
import { publishMany } from "./delivery.ts"

const decodeLine = Schema.decodeUnknownResult(LineJson)

/** A worker that runs until the scope closes; `kill` ends it without a word, and waits until it is gone. */
const start = (env: Env, task: Task, onLine: (line: Line) => void) =>
  Effect.acquireRelease(
    Effect.suspend(() => {
      const { worker } = env.fixture
      if (worker === undefined) return fail("the fixture gives no worker")
      const file =
        typeof worker.file === "string" && !worker.file.startsWith("file:") ? worker.file : fileURLToPath(worker.file)
      const child = spawn(process.execPath, [...(worker.execArgv ?? []), file], {
        env: { ...process.env, ...worker.env, [taskVariable]: JSON.stringify(task) },
        stdio: ["ignore", "pipe", "pipe"]
      })
      let said = ""
      child.stderr.on("data", (chunk) => (said += String(chunk)))
      const lines = createInterface({ input: child.stdout })
      lines.on("line", (text) => {
        const line = decodeLine(text)
        // What the program of the worker logs stands between the lines.
        if (Result.isSuccess(line)) onLine(line.success)
        else said += `${text}\n`
      })
      const gone = new Promise<void>((resolve) => child.once("close", () => resolve()))
      return Effect.succeed({
        /** What it said beside its lines. */
        said: () => said,
        running: () => child.exitCode === null && child.signalCode === null,
        kill: Effect.andThen(
          Effect.sync(() => child.kill("SIGKILL")),
          Effect.promise(() => gone)
        )
      })
    }),
    ({ kill }) => kill
  )

const taskOf = (env: Env, role: Task["role"], topic: string): Task => ({
  role,
  topic,
  group: "g",
  ordered: env.can("order"),
  lease: env.lease
})

const killConsumer: Spec = {
  id: "kill-consumer",
  name: "13 the consuming process is killed again and again under load: nothing is lost, and order per key holds",
  needs: needsHook("worker"),
  longest: 12,
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.topic("g")
      const count = env.count(3000, 200)
      const history: Array<Line & { readonly process: number }> = []
      const done = () => new Set(history.flatMap(({ id, what }) => (what === "done" ? [id] : [])))
      const load = yield* Effect.forkScoped(publishMany(app, topic, count, 8))
      const rounds = 3
      for (let process = 0; process < rounds; process++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const had = done().size
            const worker = yield* start(env, taskOf(env, "consume", topic.name), (line) =>
              history.push({ ...line, process })
            )
            yield* env.until(
              `worker ${process} handles messages`,
              () => done().size >= Math.min(count, had + Math.ceil(count / (rounds + 2))) || !worker.running(),
              () => `It handled ${done().size - had}. ${worker.said()}`,
              env.patience * 2
            )
            yield* check(worker.running(), () => `worker ${process} ended by itself: ${worker.said()}`)
            // In the middle of whatever it does.
            yield* worker.kill
          })
        )
      }
      const ids = yield* Fiber.join(load)
      const last = yield* start(env, taskOf(env, "consume", topic.name), (line) =>
        history.push({ ...line, process: rounds })
      )
      const missing = () => {
        const handled = done()
        return ids.filter((id) => !handled.has(id))
      }
      yield* env.until(
        "all are handled after the last kill",
        () => missing().length === 0,
        () => `Missing ${missing().length} of ${ids.length}: ${show(missing().slice(0, 5))}. ${last.said()}`,
        env.patience * 4
      )
      const handled = history.filter(({ what }) => what === "done")
      if (env.can("order")) {
        for (const key of new Set(handled.map(({ key }) => key))) {
          const firsts = new Map<string, number>()
          for (const { id, key: of, n } of handled) if (of === key && !firsts.has(id)) firsts.set(id, n)
          const numbers = [...firsts.values()]
          const wrong = numbers.findIndex((n, index) => index > 0 && n < (numbers[index - 1] ?? 0))
          yield* check(wrong < 0, () => `key "${key}" was handled out of order: ${show(numbers.slice(0, wrong + 1))}`)
        }
      }
      const strange = handled.find(({ id }) => !ids.includes(id))
      yield* check(strange === undefined, `${show(strange)} was handled, and nobody sent it`)
      return { sent: ids.length, duplicates: handled.length - new Set(handled.map(({ id }) => id)).size }
    })
}

const killPublisher: Spec = {
  id: "kill-publisher",
  name: "21 what was confirmed is there, although its publisher was killed right after",
  needs: needsHook("worker"),
  longest: 8,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const confirmed: Array<string> = []
      for (let round = 1; round <= 3; round++) {
        yield* Effect.scoped(
          Effect.gen(function* () {
            const goal = confirmed.length + env.count(500, 50)
            const worker = yield* start(env, taskOf(env, "publish", topic.name), ({ id, what }) => {
              if (what === "confirmed") confirmed.push(id)
            })
            yield* env.until(
              `publisher ${round} publishes`,
              () => confirmed.length >= goal || !worker.running(),
              () => worker.said(),
              env.patience * 2
            )
            yield* check(worker.running(), () => `publisher ${round} ended by itself: ${worker.said()}`)
            yield* worker.kill
          })
        )
      }
      const app = yield* env.connect
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const missing = () => confirmed.filter((id) => !log.ids.has(id))
      // What was sent and not yet told may be there too.
      yield* env.until(
        "all that was confirmed is handled",
        () => missing().length === 0,
        () => `Missing ${missing().length} of ${confirmed.length}.`
      )
      return { sent: confirmed.length, duplicates: log.entries.length - log.ids.size }
    })
}

export const kills: ReadonlyArray<Spec> = [killConsumer, killPublisher]
