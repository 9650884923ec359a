/** Promise 8: no silent deadlock. A circle is found when it closes, and every edge is named. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { WorkerPool } from "millrace"
import { balanced } from "./support.ts"

const deadlockOf = (exit: Exit.Exit<unknown, unknown>): WorkerPool.PoolDeadlock => {
  const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  if (!(defect instanceof WorkerPool.PoolDeadlock)) throw new Error(`no deadlock: ${String(exit)}`)
  return defect
}

describe("deadlock", () => {
  it.effect("own pool: a task waits for a task that needs its slot", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const exit = yield* Effect.exit(
        pool.run(pool.run(Effect.die("must not run"), { name: "inner" }), { name: "outer" })
      )
      const deadlock = deadlockOf(exit)
      assert.strictEqual(deadlock.task, "outer")
      assert.include(deadlock.edges[0], 'task "outer" of pool "p" waits for task "inner" of pool "p"')
      assert.include(deadlock.edges[1], 'task "inner" of pool "p" waits for a slot of its pool')
      assert.include(deadlock.edges[1], '"outer"')
      assert.include(deadlock.message, "onDeadlock")
      assert.deepInclude(yield* balanced(pool), { defected: 1, interrupted: 1, running: 0, queued: 0 })
    })
  )

  it.effect("own pool with a free slot is no deadlock; the last slot makes it one", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 3 })
      const nest = (depth: number): Effect.Effect<number, WorkerPool.PoolClosed> =>
        depth === 0 ? Effect.succeed(0) : Effect.map(pool.run(nest(depth - 1)), (n) => n + 1)
      assert.strictEqual(yield* pool.run(nest(2)), 2)
      deadlockOf(yield* Effect.exit(pool.run(nest(3))))
      assert.strictEqual(yield* pool.run(nest(2)), 2)
    })
  )

  it.effect("own pool: a task maps over a tree through the pool that runs it, deeper than there are slots", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 3 })
      const leaves = (depth: number): Effect.Effect<number, WorkerPool.PoolClosed> =>
        depth === 0
          ? Effect.succeed(1)
          : Effect.map(
              pool.map([1, 2, 3], () => leaves(depth - 1)),
              (counts) => counts.reduce((a, b) => a + b)
            )
      // One branch holds two slots, so that there is one for its leaves.
      assert.strictEqual(yield* pool.run(leaves(1)), 3)
      const { edges } = deadlockOf(yield* Effect.exit(pool.run(leaves(3))))
      assert.match(edges[0] ?? "", /waits for the first of \d tasks of pool "p", such as "p#\d+"/)
      assert.strictEqual(yield* pool.run(leaves(1)), 3)
      assert.deepInclude(yield* balanced(pool), { running: 0, queued: 0 })
    })
  )

  it.effect("a slot held by a task that does not wait is no deadlock", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      const other = yield* pool.submit(Effect.sleep("1 second"))
      const outer = yield* Effect.forkChild(pool.run(pool.run(Effect.succeed("inner"))), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* other.await
      assert.strictEqual(yield* Fiber.join(outer), "inner")
    })
  )

  it.effect("two pools: A waits for B, whose task waits for A", () =>
    Effect.gen(function* () {
      const a = yield* WorkerPool.make({ name: "a", concurrency: 1 })
      const b = yield* WorkerPool.make({ name: "b", concurrency: 1 })
      const exit = yield* Effect.exit(
        a.run(b.run(a.run(Effect.void, { name: "third" }), { name: "second" }), { name: "first" })
      )
      const { edges } = deadlockOf(exit)
      assert.deepStrictEqual(
        edges.map((edge) => edge.split(" waits for ")[0]),
        ['task "first" of pool "a"', 'task "second" of pool "b"', 'task "third" of pool "a"']
      )
      assert.deepInclude(yield* balanced(a), { running: 0, queued: 0 })
      assert.deepInclude(yield* balanced(b), { running: 0, queued: 0 })
    })
  )

  it.effect("crossing pools: two tasks, each waiting for a slot that the other holds", () =>
    Effect.gen(function* () {
      const a = yield* WorkerPool.make({ name: "a", concurrency: 1 })
      const b = yield* WorkerPool.make({ name: "b", concurrency: 1 })
      const both = yield* Deferred.make<void>()
      const left = yield* a.submit(Effect.andThen(Deferred.await(both), b.run(Effect.succeed("in b"))), {
        name: "left"
      })
      const right = yield* b.submit(Effect.andThen(Deferred.await(both), a.run(Effect.succeed("in a"))), {
        name: "right"
      })
      yield* Deferred.succeed(both, undefined)
      const exits = [yield* left.exit, yield* right.exit]
      // The one that closed the circle dies, and the other goes on.
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
      assert.strictEqual(deadlockOf(exits.find(Exit.isFailure) ?? assert.fail("one dies")).edges.length, 4)
    })
  )

  it.effect("own key: a task waits for a task of its own key, although slots are free", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 8 })
      const exit = yield* Effect.exit(
        pool.run(pool.run(Effect.void, { key: "k", name: "inner" }), { key: "k", name: "outer" })
      )
      const { edges } = deadlockOf(exit)
      assert.include(edges[1], 'task "inner" of pool "p" waits for its key "k", held by task "outer"')
    })
  )

  it.effect("admission: a task waits for a place in the backlog that only its own end would free", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const exit = yield* Effect.exit(
        pool.run(Effect.andThen(pool.submit(Effect.void), pool.submit(Effect.void, { name: "second" })), {
          name: "producer"
        })
      )
      const deadlock = deadlockOf(exit)
      assert.include(deadlock.edges[0], 'waits for a place for task "second" in the backlog of pool "p"')
      assert.deepInclude(yield* balanced(pool), { accepted: 2, defected: 1, blocked: 0 })
    })
  )

  it.effect("submit, then await", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const exit = yield* Effect.exit(
        pool.run(Effect.flatMap(pool.submit(Effect.succeed("later")), (handle) => handle.await))
      )
      deadlockOf(exit)
      yield* pool.awaitIdle
      assert.deepInclude(yield* balanced(pool), { defected: 1, succeeded: 1 })
    })
  )

  it.effect("two running tasks that await each other", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      const other = yield* Deferred.make<WorkerPool.TaskHandle<void, WorkerPool.PoolClosed>>()
      const one: WorkerPool.TaskHandle<void, WorkerPool.PoolClosed> = yield* pool.submit(
        Effect.flatMap(Deferred.await(other), (handle) => handle.await)
      )
      const two = yield* pool.submit(Effect.andThen(Effect.yieldNow, one.await))
      yield* Deferred.succeed(other, two)
      const exits = [yield* one.exit, yield* two.exit]
      assert.isTrue(exits.every(Exit.isFailure))
      deadlockOf(exits[1] ?? assert.fail("two exits"))
    })
  )

  for (const operation of ["awaitIdle", "drain", "shutdown"] as const) {
    it.effect(`${operation} from inside`, () =>
      Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
        const inside = operation === "shutdown" ? pool.shutdown() : pool[operation]
        const { edges } = deadlockOf(yield* Effect.exit(pool.run(inside, { name: "self" })))
        assert.deepStrictEqual(edges, [`task "self" of pool "p" waits for ${operation} of pool "p"`])
        // The attempt has changed nothing.
        assert.strictEqual(yield* pool.run(Effect.succeed("open")), "open")
      })
    )
  }

  it.effect("a wait that something else can end is no deadlock: timeout, expiry, pause, a child fiber", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 10 })
      const timed = yield* pool.submit(pool.run(Effect.void), { timeout: "1 second" })
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Effect.flip(timed.await))._tag, "TaskTimedOut")

      const expiring = yield* pool.submit(pool.run(Effect.void, { expiresIn: "1 second" }))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Effect.flip(expiring.await))._tag, "TaskExpired")

      const inChild = yield* pool.submit(Effect.timeout(pool.run(Effect.void), "1 second"))
      yield* TestClock.adjust("1 second")
      assert.isTrue(Cause.isTimeoutError(yield* Effect.flip(inChild.await)))
      assert.deepInclude(yield* balanced(pool), { running: 0, queued: 0 })
    })
  )

  it.effect("a full backlog in which something will expire is no deadlock for its producer", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const producer = yield* pool.submit(
        Effect.gen(function* () {
          const stale = yield* pool.submit(Effect.void, { expiresIn: "1 second" })
          yield* pool.submit(Effect.void)
          return (yield* Effect.flip(stale.await))._tag
        })
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* producer.await, "TaskExpired")
    })
  )

  it.effect("a wait that is over is forgotten", () =>
    Effect.gen(function* () {
      const a = yield* WorkerPool.make({ name: "a", concurrency: 1 })
      const b = yield* WorkerPool.make({ name: "b", concurrency: 1 })
      const quick = yield* b.submit(Effect.sleep("1 second"))
      const holder = yield* a.submit(Effect.andThen(b.awaitIdle, Effect.sleep("1 second")))
      yield* TestClock.adjust("1 second")
      yield* quick.await
      // It waits for the slot of the holder, which once waited for this pool.
      const waiting = yield* b.submit(a.run(Effect.succeed("after the holder")))
      yield* TestClock.adjust("1 second")
      yield* holder.await
      assert.strictEqual(yield* waiting.await, "after the holder")
    })
  )

  for (const onDeadlock of ["inline", "lend"] as const) {
    it.effect(`${onDeadlock}: nested work goes on, in the own pool, across pools, through keys and admission`, () =>
      Effect.gen(function* () {
        const a = yield* WorkerPool.make({ name: "a", concurrency: 1, capacity: 2, onDeadlock })
        const b = yield* WorkerPool.make({ name: "b", concurrency: 1, onDeadlock })
        const nest = (depth: number): Effect.Effect<number, WorkerPool.PoolClosed> =>
          depth === 0 ? Effect.succeed(0) : Effect.map(a.run(nest(depth - 1)), (n) => n + 1)
        assert.strictEqual(yield* a.run(nest(10)), 10)
        const leaves = (depth: number): Effect.Effect<number, WorkerPool.PoolClosed> =>
          depth === 0
            ? Effect.succeed(1)
            : Effect.map(
                a.map([1, 2, 3], () => leaves(depth - 1)),
                (counts) => counts.reduce((x, y) => x + y)
              )
        assert.strictEqual(yield* leaves(5), 3 ** 5)
        assert.strictEqual(yield* a.run(b.run(a.run(b.run(Effect.succeed("deep"))))), "deep")
        assert.strictEqual(yield* a.run(a.run(Effect.succeed("keyed"), { key: "k" }), { key: "k" }), "keyed")
        const produced = yield* a.run(
          Effect.forEach(
            Array.from({ length: 10 }, (_, n) => n),
            (n) => a.submit(Effect.succeed(n))
          )
        )
        assert.deepStrictEqual(
          yield* Effect.forEach(produced, (handle) => handle.await),
          [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        )
        // The slots that were lent have been returned.
        let most = 0
        let now = 0
        const work = Effect.acquireUseRelease(
          Effect.sync(() => (most = Math.max(most, ++now))),
          () => Effect.yieldNow,
          () => Effect.sync(() => now--)
        )
        yield* Effect.forEach(Array.from({ length: 5 }), () => a.run(work), { concurrency: 5 })
        assert.strictEqual(most, 1)
        assert.deepInclude(yield* balanced(a), { running: 0, queued: 0, defected: 0 })
      })
    )

    it.effect(`${onDeadlock} cannot help a task that waits for itself`, () =>
      Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onDeadlock })
        deadlockOf(yield* Effect.exit(pool.run(pool.awaitIdle)))
      })
    )
  }

  it.effect("lend keeps the order of the backlog; inline lets what is waited for go first", () =>
    Effect.gen(function* () {
      for (const [onDeadlock, expected] of [
        ["lend", ["first", "inner"]],
        ["inline", ["inner", "first"]]
      ] as const) {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onDeadlock })
        const order: Array<string> = []
        yield* pool.run(
          Effect.andThen(
            pool.submit(Effect.sync(() => order.push("first"))),
            pool.run(Effect.sync(() => order.push("inner")))
          )
        )
        yield* pool.awaitIdle
        assert.deepStrictEqual(order, [...expected])
      }
    })
  )
})
