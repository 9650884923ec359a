/** Several processes on one file, some of which are killed. */
import type { ChildProcess } from "node:child_process"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { consume, drain, filename, message, open, subscribe, textOf } from "./support.ts"

interface Worker {
  readonly process: ChildProcess
  /** What it has told. */
  readonly lines: Array<string>
  readonly exited: Promise<unknown>
}

/** A process in the scope; it is killed at its end. */
const start = (file: string, role: string, argument = "") =>
  Effect.acquireRelease(
    Effect.sync((): Worker => {
      const child = spawn(
        process.execPath,
        ["--conditions=millrace-source", join(import.meta.dirname, "worker.ts"), file, role, argument],
        { stdio: ["ignore", "pipe", "inherit"] }
      )
      const lines: Array<string> = []
      let rest = ""
      child.stdout.setEncoding("utf8").on("data", (text: string) => {
        const parts = (rest + text).split("\n")
        rest = parts.pop() ?? ""
        lines.push(...parts.filter((line) => line !== ""))
      })
      return { process: child, lines, exited: once(child, "close") }
    }),
    (worker) => Effect.promise(() => kill(worker))
  )

const kill = async (worker: Worker): Promise<void> => {
  worker.process.kill("SIGKILL")
  await worker.exited
}

const until = (condition: () => boolean) =>
  Effect.gen(function* () {
    while (!condition()) yield* Effect.sleep("5 millis")
  })

const started = (worker: Worker) => until(() => worker.lines.includes("opened"))

const told = (workers: ReadonlyArray<Worker>) =>
  workers.flatMap(({ lines }) => lines.filter((line) => line !== "opened"))

describe("several processes", () => {
  it.live(
    "start at once on a file that does not exist",
    () =>
      Effect.gen(function* () {
        const file = yield* filename
        const workers = yield* Effect.all(Array.from({ length: 4 }, () => start(file, "open")))
        const exits = yield* Effect.all(workers.map(({ exited }) => Effect.promise(() => exited)))
        assert.deepStrictEqual(exits, Array(4).fill([0, null]))
        const { driver } = yield* open({ filename: file })
        assert.deepStrictEqual(yield* driver.groups("t"), [])
      }),
    60_000
  )

  it.live(
    "publish and consume beside each other: everything once",
    () =>
      Effect.gen(function* () {
        const { driver, filename: file } = yield* open()
        yield* driver.declare({ topic: "t", groups: ["g"] })
        const each = 500
        const consumers = [yield* start(file, "consume", "30000"), yield* start(file, "consume", "30000")]
        for (const consumer of consumers) yield* started(consumer)
        const publishers = [yield* start(file, "publish", String(each)), yield* start(file, "publish", String(each))]
        yield* until(() => told(consumers).length >= 2 * each)
        yield* Effect.all(publishers.map(({ exited }) => Effect.promise(() => exited)))
        const seen = told(consumers)
        assert.strictEqual(seen.length, 2 * each)
        assert.deepStrictEqual(new Set(seen), new Set(told(publishers)))
      }),
    60_000
  )

  it.live(
    "keep the order of keys between them",
    () =>
      Effect.gen(function* () {
        const { driver, filename: file } = yield* open()
        yield* driver.declare({ topic: "t", groups: ["g"] })
        const total = 600
        const keys = 4
        const workers = [
          yield* start(file, "ordered", "30000"),
          yield* start(file, "ordered", "30000"),
          yield* start(file, "ordered", "30000")
        ]
        for (const worker of workers) yield* started(worker)
        for (let i = 0; i < total; i += 10) {
          yield* driver.publish(
            Array.from({ length: 10 }, (_, j) =>
              message("t", String(i + j), { envelope: { key: `k${(i + j) % keys}` } })
            )
          )
        }
        const ended = () => told(workers).filter((line) => line.startsWith("-")).length
        yield* until(() => ended() >= total)
        assert.strictEqual(ended(), total)
        // All that was told of one key, in the order of the machine's clock.
        for (let key = 0; key < keys; key++) {
          const events = workers
            .flatMap((worker, process) => worker.lines.map((line) => [...line.split(" "), String(process)]))
            .filter((event) => event[1] === `k${key}`)
            .toSorted((a, b) => Number(BigInt(a[3] ?? 0) - BigInt(b[3] ?? 0)))
          const held = new Map<string, string>()
          let last = -1
          for (const [sign, , text = "", , process = ""] of events) {
            if (sign === "-") {
              held.delete(text)
              continue
            }
            assert.isAbove(Number(text), last, "out of order")
            last = Number(text)
            for (const holder of held.values()) assert.strictEqual(holder, process, "held by two processes")
            held.set(text, process)
          }
        }
      }),
    60_000
  )

  it.live(
    "a killed publisher has lost nothing that was confirmed",
    () =>
      Effect.gen(function* () {
        const { driver, filename: file } = yield* open()
        yield* driver.declare({ topic: "t", groups: ["g"] })
        const publishers = [yield* start(file, "publish", "1000000"), yield* start(file, "publish", "1000000")]
        yield* until(() => publishers.every(({ lines }) => lines.length > 100))
        for (const publisher of publishers) yield* Effect.promise(() => kill(publisher))
        const confirmed = told(publishers)
        const subscription = yield* subscribe(driver)
        const there = new Set((yield* consume(subscription, confirmed.length)).map(textOf))
        for (const text of confirmed) assert.isTrue(there.has(text), `${text} was confirmed and is lost`)
        // At most the one of each that was being published when it died.
        assert.isAtMost(there.size + (yield* drain(subscription)).length, confirmed.length + 2)
      }),
    60_000
  )

  it.live(
    "what a killed consumer held comes back after its lease, and not before",
    () =>
      Effect.gen(function* () {
        const { driver, filename: file } = yield* open({ pollInterval: "50 millis" })
        yield* driver.declare({ topic: "t", groups: ["g"] })
        const texts = Array.from({ length: 50 }, (_, i) => String(i))
        yield* driver.publish(texts.map((text) => message("t", text)))
        const holder = yield* start(file, "hold", "1000")
        yield* until(() => told([holder]).length >= texts.length)
        const heldAt = Date.now()
        yield* Effect.promise(() => kill(holder))
        const subscription = yield* subscribe(driver)
        assert.deepStrictEqual(yield* drain(subscription), [])
        const back = yield* consume(subscription, texts.length)
        assert.deepStrictEqual(back.map(textOf), texts)
        assert.isAtLeast(Date.now() - heldAt, 900)
        assert.deepStrictEqual(
          back.map(({ deliveries }) => deliveries),
          texts.map(() => 2)
        )
      }),
    60_000
  )

  it.live(
    "are woken by each other, well before they poll",
    () =>
      Effect.gen(function* () {
        const { driver, filename: file } = yield* open()
        yield* driver.declare({ topic: "t", groups: ["g"] })
        const worker = yield* start(file, "wake")
        yield* started(worker)
        yield* Effect.sleep("100 millis")
        for (let i = 0; i < 30; i++) {
          yield* driver.publish([message("t", String(process.hrtime.bigint()))])
          yield* until(() => told([worker]).length > i)
          yield* Effect.sleep("10 millis")
        }
        const sorted = told([worker])
          .map(Number)
          .toSorted((a, b) => a - b)
        // The poll of the worker is 200 ms, so half of them would take over 100 ms without being woken.
        assert.isBelow(sorted[15] ?? Number.NaN, 50_000)
      }),
    60_000
  )
})
