/** Keys, priority, weight, rate, pause and resize. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { WorkerPool } from "millrace"
import { balanced, gate } from "./support.ts"

describe("keys", () => {
  it.effect("tasks of one key run one at a time and in order, different keys in parallel", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 16 })
      const running = new Map<string, number>()
      const order = new Map<string, Array<number>>()
      let most = 0
      let now = 0
      const work = (key: string, n: number) =>
        Effect.gen(function* () {
          most = Math.max(most, ++now)
          running.set(key, (running.get(key) ?? 0) + 1)
          assert.strictEqual(running.get(key), 1)
          order.set(key, [...(order.get(key) ?? []), n])
          yield* Effect.sleep(1 + ((n * 7) % 5))
          running.set(key, 0)
          now--
        })
      for (let n = 0; n < 200; n++) {
        const key = `key ${n % 10}`
        yield* pool.submit(work(key, n), { key })
      }
      yield* TestClock.adjust("1 minute")
      yield* pool.awaitIdle
      assert.strictEqual(most, 10)
      for (const [key, ns] of order) {
        assert.strictEqual(ns.length, 20, key)
        assert.deepStrictEqual(
          ns,
          [...ns].sort((a, b) => a - b)
        )
      }
    })
  )

  it.effect("keys take turns: one with many tasks does not starve another", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1000 })
      const order: Array<string> = []
      const work = yield* gate
      yield* pool.submit(work.pass)
      for (let n = 0; n < 100; n++)
        yield* pool.submit(
          Effect.sync(() => order.push("many")),
          { key: "many" }
        )
      yield* pool.submit(
        Effect.sync(() => order.push("few")),
        { key: "few" }
      )
      yield* work.open
      yield* pool.awaitIdle
      assert.strictEqual(order.indexOf("few"), 1)
    })
  )

  it.effect("100,000 keys cost no more than their tasks, and are forgotten", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 64 })
      let sum = 0
      for (let n = 0; n < 100_000; n++)
        yield* pool.submit(
          Effect.sync(() => (sum += 1)),
          { key: `key ${n}` }
        )
      yield* pool.awaitIdle
      assert.strictEqual(sum, 100_000)
      assert.deepStrictEqual(yield* pool.haltedKeys, [])
    })
  )

  it.effect("capacityPerKey keeps one key from filling the backlog", () =>
    Effect.gen(function* () {
      const rejecting = yield* WorkerPool.make({
        name: "r",
        concurrency: 1,
        capacity: 10,
        capacityPerKey: 2,
        onFull: "reject"
      })
      const work = yield* gate
      yield* rejecting.submit(work.pass, { key: "a" })
      yield* rejecting.submit(Effect.void, { key: "a" })
      yield* rejecting.submit(Effect.void, { key: "a" })
      const full = yield* Effect.flip(rejecting.submit(Effect.void, { key: "a" }))
      assert.deepInclude(full, { _tag: "PoolFull", key: "a", capacity: 2 })
      yield* rejecting.submit(Effect.void, { key: "b" })
      yield* work.open

      const suspending = yield* WorkerPool.make({ name: "s", concurrency: 1, capacity: 10, capacityPerKey: 1 })
      const order: Array<number> = []
      const hold = yield* gate
      yield* suspending.submit(hold.pass, { key: "a" })
      const producer = yield* Effect.forkChild(
        Effect.forEach([1, 2, 3], (n) =>
          suspending.submit(
            Effect.sync(() => order.push(n)),
            { key: "a" }
          )
        ),
        { startImmediately: true }
      )
      assert.deepInclude(yield* balanced(suspending), { queued: 1, blocked: 1 })
      const interrupted = yield* Effect.forkChild(suspending.submit(Effect.die("never"), { key: "a" }), {
        startImmediately: true
      })
      yield* Fiber.interrupt(interrupted)
      yield* hold.open
      yield* Fiber.join(producer)
      yield* suspending.awaitIdle
      assert.deepStrictEqual(order, [1, 2, 3])
      assert.deepInclude(yield* balanced(suspending), { accepted: 4, succeeded: 4, blocked: 0 })
    })
  )

  it.effect("capacityPerKey with dropOldest drops within the key", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({
        name: "p",
        concurrency: 1,
        capacity: 10,
        capacityPerKey: 1,
        onFull: "dropOldest"
      })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const other = yield* pool.submit(Effect.succeed("other"), { key: "b" })
      const old = yield* pool.submit(Effect.succeed("old"), { key: "a" })
      const young = yield* pool.submit(Effect.succeed("young"), { key: "a" })
      assert.strictEqual((yield* Effect.flip(old.await))._tag, "TaskDropped")
      yield* work.open
      assert.deepStrictEqual([yield* other.await, yield* young.await], ["other", "young"])
    })
  )

  it.effect("on failure of a key: continue, park, stop", () =>
    Effect.gen(function* () {
      for (const onKeyFailure of ["continue", "park", "stop"] as const) {
        const pool = yield* WorkerPool.make({ name: onKeyFailure, concurrency: 1, onKeyFailure })
        const work = yield* gate
        yield* pool.submit(work.pass)
        const failing = yield* pool.submit(Effect.fail("no"), { key: "a" })
        const second = yield* pool.submit(Effect.succeed("second"), { key: "a" })
        const third = yield* pool.submit(Effect.succeed("third"), { key: "a" })
        const other = yield* pool.submit(Effect.succeed("other"), { key: "b" })
        yield* work.open
        yield* failing.exit
        assert.strictEqual(yield* other.await, "other")
        if (onKeyFailure === "continue") {
          assert.strictEqual(yield* second.await, "second")
          assert.deepStrictEqual(yield* pool.haltedKeys, [])
        } else if (onKeyFailure === "park") {
          assert.deepStrictEqual(yield* pool.haltedKeys, [{ key: "a", condition: "parked" }])
          assert.deepInclude(yield* balanced(pool), { queued: 2 })
          yield* pool.resumeKey("a")
          assert.deepStrictEqual([yield* second.await, yield* third.await], ["second", "third"])
        } else {
          const error = yield* Effect.flip(second.await)
          assert.deepInclude(error, { _tag: "KeyStopped", key: "a" })
          const later = yield* pool.submit(Effect.succeed("later"), { key: "a" })
          assert.strictEqual((yield* Effect.flip(later.await))._tag, "KeyStopped")
          assert.deepInclude(yield* balanced(pool), { dropped: 3, queued: 0 })
          assert.strictEqual((yield* Effect.flip(third.await))._tag, "KeyStopped")
          yield* pool.resumeKey("a")
          assert.strictEqual(yield* pool.run(Effect.succeed("again"), { key: "a" }), "again")
        }
      }
    })
  )

  it.effect("a cancelled task of a key lets the next one go", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const first = yield* pool.submit(Effect.die("never"), { key: "a" })
      const second = yield* pool.submit(Effect.die("never"), { key: "a" })
      const third = yield* pool.submit(Effect.succeed("third"), { key: "a" })
      yield* first.cancel
      yield* second.cancel
      yield* work.open
      assert.strictEqual(yield* third.await, "third")
      assert.deepInclude(yield* balanced(pool), { interrupted: 2, succeeded: 2 })
    })
  )
})

describe("priority", () => {
  it.effect("higher first, first in first out within one, blocked producers too, and key order wins", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 4 })
      const order: Array<string> = []
      const note = (name: string) => Effect.sync(() => order.push(name))
      const work = yield* gate
      yield* pool.submit(work.pass)
      yield* pool.submit(note("low"), { priority: -1 })
      yield* pool.submit(note("keyed, low"), { priority: -2, key: "k" })
      yield* pool.submit(note("keyed, high"), { priority: 5, key: "k" })
      yield* pool.submit(note("high"), { priority: 1.5 })
      for (const [name, priority] of [
        ["blocked", 0],
        ["blocked, high", 2],
        ["blocked, second", 0]
      ] as const) {
        yield* Effect.forkChild(pool.submit(note(name), { priority }), { startImmediately: true })
      }
      yield* work.open
      yield* pool.awaitIdle
      assert.deepStrictEqual(order, [
        "high",
        "blocked, high",
        "blocked",
        "blocked, second",
        "low",
        "keyed, low",
        "keyed, high"
      ])
    })
  )
})

describe("weight", () => {
  it.effect("limits the sum of the weights; a light task does not pass a heavy one; the heaviest runs alone", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 4 })
      const events: Array<string> = []
      const work = (name: string, millis: number) =>
        Effect.gen(function* () {
          events.push(`+${name}`)
          yield* Effect.sleep(millis)
          events.push(`-${name}`)
        })
      yield* pool.submit(work("a", 10), { weight: 3 })
      yield* pool.submit(work("b", 20), { weight: 2 })
      yield* pool.submit(work("c", 5), { weight: 1 })
      yield* pool.submit(work("whole", 5), { weight: 9 })
      yield* pool.submit(work("d", 5))
      yield* TestClock.adjust("1 second")
      yield* pool.awaitIdle
      assert.deepStrictEqual(events, ["+a", "-a", "+b", "+c", "-c", "-b", "+whole", "-whole", "+d", "-d"])
    })
  )
})

describe("rate limit", () => {
  it.effect("starts no more than the rate allows, and a drain obeys it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({
        name: "p",
        concurrency: 100,
        rateLimit: { limit: 5, interval: "1 second" }
      })
      const starts: Array<number> = []
      const clock = yield* TestClock.testClockWith(Effect.succeed)
      const work = Effect.sync(() => starts.push(clock.currentTimeMillisUnsafe()))
      yield* pool.submitAll(Array.from({ length: 20 }, () => work))
      const draining = yield* Effect.forkChild(pool.drain, { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(draining)
      assert.strictEqual(starts.length, 20)
      assert.deepStrictEqual(starts.slice(0, 7), [0, 0, 0, 0, 0, 200, 400])
      assert.strictEqual(starts[19], 3000)
    })
  )
})

describe("pause and resize", () => {
  it.effect("pause stops starts only: admission, expiry and cancellation go on", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      yield* pool.pause
      const one = yield* pool.submit(Effect.succeed(1))
      const expiring = yield* pool.submit(Effect.void, { expiresIn: "1 second" })
      const cancelled = yield* pool.submit(Effect.void)
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Effect.flip(expiring.await))._tag, "TaskExpired")
      yield* cancelled.cancel
      assert.deepInclude(yield* balanced(pool), { queued: 1, running: 0 })
      yield* pool.resume
      assert.strictEqual(yield* one.await, 1)
    })
  )

  it.effect("resize takes effect at once when it grows and as tasks end when it shrinks", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      yield* pool.submitAll(Array.from({ length: 6 }, () => Effect.sleep("1 second")))
      yield* pool.resize(4)
      assert.deepInclude(yield* balanced(pool), { running: 4, queued: 2 })
      yield* pool.resize(1)
      yield* TestClock.adjust("1 second")
      assert.deepInclude(yield* balanced(pool), { running: 1, queued: 1 })
      yield* TestClock.adjust("2 seconds")
      assert.deepInclude(yield* balanced(pool), { running: 0, succeeded: 6 })
    })
  )

  it.effect("awaitIdle leaves admission open", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      yield* pool.awaitIdle
      const work = yield* gate
      yield* pool.submit(work.pass)
      const idle = yield* Effect.forkChild(pool.awaitIdle, { startImmediately: true })
      assert.isUndefined(idle.pollUnsafe())
      yield* work.open
      yield* Fiber.join(idle)
      assert.strictEqual(yield* pool.run(Effect.succeed("open")), "open")
    })
  )
})
