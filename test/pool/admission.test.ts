/** Promises 1 and 4: admission is not completion, and both the backlog and the slots are bounded. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option } from "effect"
import { TestClock } from "effect/testing"
import { WorkerPool } from "millrace"
import { balanced, gate } from "./support.ts"

describe("admission", () => {
  it.effect("submit returns when the task is accepted, long before it ends", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const work = yield* gate
      const handle = yield* pool.submit(Effect.as(work.pass, "done"))
      yield* work.begun
      assert.isTrue(Option.isNone(yield* handle.poll))
      yield* work.open
      assert.strictEqual(yield* handle.await, "done")
      assert.deepStrictEqual(yield* handle.poll, Option.some(Exit.succeed("done")))
      assert.deepStrictEqual(yield* handle.exit, Exit.succeed("done"))
    })
  )

  it.effect("runs no more than concurrency at a time and keeps no more than capacity waiting", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 3, capacity: 2 })
      let now = 0
      let most = 0
      const work = Effect.gen(function* () {
        most = Math.max(most, ++now)
        yield* Effect.yieldNow
        now--
      })
      yield* Effect.forEach(Array.from({ length: 200 }), () => pool.submit(work), { concurrency: 20, discard: true })
      yield* pool.awaitIdle
      assert.strictEqual(most, 3)
      assert.strictEqual((yield* balanced(pool)).succeeded, 200)
    })
  )

  it.effect("suspend: the producer waits for a place, first come first served", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const order: Array<number> = []
      const work = yield* gate
      yield* pool.submit(work.pass)
      yield* pool.submit(Effect.sync(() => order.push(0)))
      const producers = yield* Effect.forEach([1, 2, 3], (n) =>
        Effect.forkChild(pool.submit(Effect.sync(() => order.push(n))), { startImmediately: true })
      )
      assert.strictEqual((yield* balanced(pool)).blocked, 3)
      assert.isTrue(producers.every((producer) => producer.pollUnsafe() === undefined))
      yield* work.open
      yield* Fiber.joinAll(producers)
      yield* pool.awaitIdle
      assert.deepStrictEqual(order, [0, 1, 2, 3])
    })
  )

  it.effect("suspend: interrupted while blocked, the work was never accepted", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 0 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const producer = yield* Effect.forkChild(pool.submit(Effect.die("must not run")), { startImmediately: true })
      yield* Fiber.interrupt(producer)
      const accounting = yield* balanced(pool)
      assert.deepInclude(accounting, { accepted: 1, blocked: 0, refused: 0 })
      yield* work.open
    })
  )

  it.effect("reject: fails with PoolFull, which says what was full", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, onFull: "reject" })
      const work = yield* gate
      yield* pool.submit(work.pass)
      yield* pool.submit(Effect.void)
      const full = yield* Effect.flip(pool.submit(Effect.void, { name: "third" }))
      assert.instanceOf(full, WorkerPool.PoolFull)
      assert.deepInclude(full, { pool: "p", task: "third", capacity: 1 })
      assert.include(full.message, 'Pool "p" refused task "third": its backlog is full (1 tasks)')
      const fromRun = yield* Effect.flip(pool.run(Effect.void))
      assert.strictEqual(fromRun._tag, "PoolFull")
      assert.deepInclude(yield* balanced(pool), { accepted: 2, refused: 2 })
      yield* work.open
    })
  )

  it.effect("dropNewest: the new task is accepted and dropped, and its handle says so", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, onFull: "dropNewest" })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const kept = yield* pool.submit(Effect.succeed("kept"))
      const dropped = yield* pool.submit(Effect.succeed("dropped"))
      const error = yield* Effect.flip(dropped.await)
      assert.instanceOf(error, WorkerPool.TaskDropped)
      assert.strictEqual(error.policy, "dropNewest")
      yield* work.open
      assert.strictEqual(yield* kept.await, "kept")
      assert.deepInclude(yield* balanced(pool), { accepted: 3, dropped: 1, succeeded: 2 })
    })
  )

  it.effect("dropOldest: the oldest of the lowest priority makes room", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 3, onFull: "dropOldest" })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const high = yield* pool.submit(Effect.succeed("high"), { priority: 1 })
      const old = yield* pool.submit(Effect.succeed("old"))
      const young = yield* pool.submit(Effect.succeed("young"))
      const newest = yield* pool.submit(Effect.succeed("newest"))
      assert.strictEqual((yield* Effect.flip(old.await))._tag, "TaskDropped")
      // Lower than all that waits: it is itself the victim.
      const lowest = yield* pool.submit(Effect.succeed("lowest"), { priority: -1 })
      assert.strictEqual((yield* Effect.flip(lowest.await))._tag, "TaskDropped")
      yield* work.open
      assert.deepStrictEqual(yield* Effect.all([high.await, young.await, newest.await]), ["high", "young", "newest"])
      assert.deepInclude(yield* balanced(pool), { accepted: 6, dropped: 2, succeeded: 4 })
    })
  )

  it.effect("dropOldest among keys: also a task that waits for its key can be the oldest", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 2, onFull: "dropOldest" })
      const work = yield* gate
      yield* pool.submit(work.pass, { key: "a" })
      const oldest = yield* pool.submit(Effect.succeed("oldest"), { key: "a" })
      const other = yield* pool.submit(Effect.succeed("other"), { key: "b" })
      const newest = yield* pool.submit(Effect.succeed("newest"), { key: "c" })
      assert.strictEqual((yield* Effect.flip(oldest.await))._tag, "TaskDropped")
      yield* work.open
      assert.deepStrictEqual(yield* Effect.all([other.await, newest.await]), ["other", "newest"])
    })
  )

  it.effect("capacity 0 hands over to an idle slot only", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 0, onFull: "reject" })
      const work = yield* gate
      assert.strictEqual(yield* pool.run(Effect.succeed("idle slot")), "idle slot")
      yield* pool.submit(work.pass)
      assert.strictEqual((yield* Effect.flip(pool.submit(Effect.void)))._tag, "PoolFull")
      yield* work.open
    })
  )

  it.effect("capacity 0 with suspend: blocked producers are served in order, a busy key does not hold up another", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 0 })
      const order: Array<string> = []
      const [one, two] = [yield* gate, yield* gate]
      yield* pool.submit(one.pass, { key: "a" })
      yield* pool.submit(two.pass, { key: "b" })
      const a = yield* Effect.forkChild(
        pool.run(
          Effect.sync(() => order.push("a")),
          { key: "a" }
        ),
        {
          startImmediately: true
        }
      )
      const c = yield* Effect.forkChild(
        pool.run(
          Effect.sync(() => order.push("c")),
          { key: "c" }
        ),
        {
          startImmediately: true
        }
      )
      yield* two.open
      yield* Fiber.join(c)
      assert.deepStrictEqual(order, ["c"])
      yield* one.open
      yield* Fiber.join(a)
      assert.deepStrictEqual(order, ["c", "a"])
    })
  )

  it.effect("expiresIn sheds a task at its time, also behind a stuck worker, and frees its place", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, shutdownDeadline: 0 })
      yield* pool.submit(Effect.never)
      const stale = yield* pool.submit(Effect.void, { expiresIn: "1 minute" })
      const next = yield* Effect.forkChild(pool.submit(Effect.void), { startImmediately: true })
      yield* TestClock.adjust("59 seconds")
      assert.isTrue(Option.isNone(yield* stale.poll))
      yield* TestClock.adjust("1 second")
      const error = yield* Effect.flip(stale.await)
      assert.instanceOf(error, WorkerPool.TaskExpired)
      assert.strictEqual(error.expiresIn, 60_000)
      yield* Fiber.join(next)
      assert.deepInclude(yield* balanced(pool), { expired: 1, queued: 1, running: 1, blocked: 0 })
    })
  )

  it.effect("a task that starts in time does not expire", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const first = yield* pool.submit(Effect.sleep("1 second"))
      const second = yield* pool.submit(Effect.as(Effect.sleep("5 seconds"), "ran"), { expiresIn: "2 seconds" })
      yield* TestClock.adjust("6 seconds")
      yield* first.await
      assert.strictEqual(yield* second.await, "ran")
    })
  )

  it.effect("submitAll: all or none under reject, in order under suspend", () =>
    Effect.gen(function* () {
      const work = yield* gate
      const rejecting = yield* WorkerPool.make({ name: "r", concurrency: 1, capacity: 2, onFull: "reject" })
      yield* rejecting.submit(work.pass)
      const three = [1, 2, 3].map((n) => Effect.succeed(n))
      const refused = yield* Effect.flip(rejecting.submitAll(three))
      assert.isTrue(refused._tag === "PoolFull")
      assert.strictEqual(
        refused.message,
        'Pool "r" refused all 3 tasks of a submitAll: its backlog had 2 places for them (capacity 2). Submit fewer at a time, try again later, raise capacity, or choose another onFull.'
      )
      assert.deepInclude(yield* balanced(rejecting), { accepted: 1, refused: 3 })
      const two = yield* rejecting.submitAll(three.slice(1))
      yield* work.open
      assert.deepStrictEqual(yield* Effect.forEach(two, (handle) => handle.await), [2, 3])

      const perKey = yield* WorkerPool.make({ name: "k", concurrency: 1, capacityPerKey: 1, onFull: "reject" })
      const ofKey = yield* Effect.flip(perKey.submitAll(three, { key: "a" }))
      assert.include(ofKey.message, 'the share of key "a" in its backlog had one place for them (capacityPerKey 1).')
      assert.include(ofKey.message, "raise capacityPerKey")

      const suspending = yield* WorkerPool.make({ name: "s", concurrency: 1, capacity: 1 })
      const many = Array.from({ length: 50 }, (_, n) => Effect.as(Effect.yieldNow, n))
      const handles = yield* suspending.submitAll(many)
      const results = yield* Effect.forEach(handles, (handle) => handle.await)
      assert.deepStrictEqual(
        results,
        Array.from({ length: 50 }, (_, n) => n)
      )
    })
  )

  it.effect("submitAll: an interruption while it waits cancels what was accepted", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      let ran = 0
      const batch = yield* Effect.forkChild(pool.submitAll(Array.from({ length: 5 }, () => Effect.sync(() => ran++))), {
        startImmediately: true
      })
      yield* Fiber.interrupt(batch)
      assert.deepInclude(yield* balanced(pool), { accepted: 2, interrupted: 1, blocked: 0, queued: 0 })
      yield* work.open
      yield* pool.awaitIdle
      assert.strictEqual(ran, 0)
    })
  )
})
