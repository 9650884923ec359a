/** What the registry says of pools and their tasks, and the dump that is made of it. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Background, Registry, TaskDump, WorkerPool } from "millrace"
import { gate } from "./support.ts"

/** With a registry of its own, so that tests do not see each other's pools. */
const alone = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(effect, Registry.Registry, Registry.makeUnsafe())

const tasks = Effect.map(Registry.Registry, (registry) => [...registry.entries].flatMap((entry) => entry.tasks()))

class Jobs extends WorkerPool.Service<Jobs>()("Jobs", { concurrency: 8, onFull: "reject" }) {}

describe("registry", () => {
  it.effect("each task says its state, what it waits for, its age and where it was submitted", () =>
    Effect.gen(function* () {
      yield* Registry.watch()
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 2, shutdownDeadline: 0 })
      const other = yield* WorkerPool.make({ name: "other", concurrency: 1, shutdownDeadline: 0 })
      yield* pool.submit(other.run(Effect.never, { name: "inner" }), { name: "outer" })
      yield* TestClock.adjust("3 seconds")
      yield* pool.submit(Effect.void, { name: "queued", key: "k" })
      yield* pool.submit(Effect.void, { name: "behind", key: "k" })
      yield* Effect.forkChild(pool.submit(Effect.void, { name: "blocked" }), { startImmediately: true })
      const found = new Map((yield* tasks).map((task) => [task.name, task]))
      assert.deepInclude(found.get("outer"), {
        state: "running",
        waitsFor: 'task "inner" of pool "other"',
        age: 3000
      })
      assert.deepInclude(found.get("queued"), { state: "queued", waitsFor: "a slot (1 running)", age: 0, key: "k" })
      assert.deepInclude(found.get("behind"), { state: "queued", waitsFor: 'key "k", held by task "queued"' })
      assert.deepInclude(found.get("blocked"), {
        state: "blocked",
        waitsFor: "a place in the backlog (2 of 2 taken)"
      })
      for (const task of found.values()) assert.match(task.site ?? "", /test\/pool\/registry\.test\.ts:\d+:\d+$/)
      const text = yield* TaskDump.dump
      assert.include(text, 'WorkerPool "p" (1 of 1 slots, backlog 2 of 2): 3 accepted, 2 queued, 1 running, 1 blocked')
      assert.match(
        text,
        /running {5}outer {2}\(p#1\) {2}3\.0 s old {2}waits for task "inner" of pool "other" {2}submitted at /
      )
    }).pipe(alone)
  )

  it.effect("the site is the program's own line, whichever way the work came", () =>
    Effect.gen(function* () {
      yield* Registry.watch()
      const work = yield* gate
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 8 })
      yield* Background.fork(work.pass, { name: "Background.fork" })
      yield* Jobs.submit(work.pass, { name: "Service.submit" })
      yield* Jobs.fork(work.pass, { name: "Service.fork" })
      yield* pool.submitAll([work.pass], { name: "submitAll" })
      const running = [
        Jobs.run(work.pass, { name: "Service.run" }),
        pool.map([1], () => work.pass, { name: "map" }),
        Stream.make(1).pipe(
          pool.mapStream(() => work.pass, { name: "mapStream" }),
          Stream.runDrain
        )
      ]
      const fibers = yield* Effect.forEach(running, (effect) =>
        Effect.forkChild(effect as Effect.Effect<unknown, unknown, Jobs>, { startImmediately: true })
      )
      yield* TestClock.adjust(0)
      const found = yield* tasks
      assert.strictEqual(found.length, 7)
      for (const task of found) {
        assert.match(task.site ?? "", /test\/pool\/registry\.test\.ts:\d+:\d+$/, task.name)
      }
      yield* work.open
      yield* Fiber.joinAll(fibers)
    }).pipe(Effect.provide(Layer.merge(Background.layer(), Jobs.layer)), alone)
  )

  it.effect("where nobody watches, no time and no place is taken", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownDeadline: 0 })
      yield* pool.submit(Effect.never)
      assert.deepInclude((yield* tasks)[0], { state: "running", age: undefined, site: undefined })
    }).pipe(alone)
  )

  it.effect("an entry leaves when its pool has closed", () =>
    Effect.gen(function* () {
      yield* Effect.scoped(WorkerPool.make({ name: "p", concurrency: 1 }))
      assert.strictEqual((yield* Registry.Registry).entries.size, 0)
      assert.include(yield* TaskDump.dump, "Nothing is open")
    }).pipe(alone)
  )

  it.effect("a dump of very many tasks names the first and counts the rest", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownDeadline: 0 })
      yield* pool.pause
      yield* pool.submitAll(Array.from({ length: 500 }, () => Effect.void))
      const text = yield* TaskDump.dump
      assert.include(text, "… and 400 more")
      assert.include(text, "waits for the pool, which is paused")
    }).pipe(alone)
  )
})
