/** Promise 7: a shutdown always ends, settles everything and says what it did. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Registry, WorkerPool } from "millrace"
import { noLeaks, whileTimePasses } from "millrace/testing"
import { balanced, gate, logged } from "./support.ts"

describe("shutdown", () => {
  it.effect("drains what was accepted, refuses the rest, and reports", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const work = yield* gate
      const running = yield* pool.submit(Effect.as(work.pass, "running"))
      const queued = yield* pool.submit(Effect.succeed("queued"))
      const blocked = yield* Effect.forkChild(Effect.flip(pool.submit(Effect.void, { name: "blocked" })), {
        startImmediately: true
      })
      const closing = yield* Effect.forkChild(pool.shutdown(), { startImmediately: true })
      const refused = yield* Fiber.join(blocked)
      assert.deepInclude(refused, { _tag: "PoolClosed", outcome: "refused", task: "blocked" })
      assert.strictEqual((yield* Effect.flip(pool.run(Effect.void)))._tag, "PoolClosed")
      yield* work.open
      const report = yield* Fiber.join(closing)
      assert.deepInclude(report, { pool: "p", drained: 2, interrupted: [], abandoned: [], dropped: 0, refused: 1 })
      assert.isTrue(WorkerPool.isClean(report))
      assert.deepStrictEqual(yield* Effect.all([running.await, queued.await]), ["running", "queued"])
      assert.deepInclude(yield* balanced(pool), { accepted: 2, succeeded: 2, refused: 2 })
    })
  )

  it.effect(
    "at the deadline it drops the queue and interrupts; after the grace it abandons, and no handle is left",
    () =>
      Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, shutdownGrace: "5 seconds" })
        const polite = yield* pool.submit(Effect.never, { name: "polite" })
        const stuck = yield* pool.submit(Effect.uninterruptible(Effect.sleep("1 hour")), { name: "stuck" })
        const queued = yield* pool.submit(Effect.void, { name: "queued" })
        const closing = yield* Effect.forkChild(pool.shutdown({ deadline: "10 seconds" }), { startImmediately: true })
        yield* TestClock.adjust("10 seconds")
        assert.deepInclude(yield* Effect.flip(polite.await), { _tag: "PoolClosed", outcome: "interrupted" })
        assert.deepInclude(yield* Effect.flip(queued.await), { _tag: "PoolClosed", outcome: "dropped" })
        assert.isUndefined(closing.pollUnsafe())
        yield* TestClock.adjust("5 seconds")
        const report = yield* Fiber.join(closing)
        assert.deepInclude(yield* Effect.flip(stuck.await), { _tag: "PoolClosed", outcome: "abandoned" })
        assert.deepStrictEqual(
          report.interrupted.map((task) => task.name),
          ["polite"]
        )
        assert.deepStrictEqual(
          report.abandoned.map((task) => task.name),
          ["stuck"]
        )
        assert.deepInclude(report, { drained: 0, dropped: 1, elapsed: 15_000 })
        assert.isFalse(WorkerPool.isClean(report))
        assert.include(WorkerPool.formatReport(report), "1 [polite] interrupted, 1 [stuck] abandoned, 1 dropped")
      })
  )

  it.effect("the late end of an abandoned task changes nothing and is reported once", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownGrace: 0 })
        let finalized = false
        const handle = yield* pool.submit(
          Effect.andThen(
            Effect.addFinalizer(() => Effect.sync(() => (finalized = true))),
            Effect.uninterruptible(Effect.as(Effect.sleep("1 hour"), "late"))
          )
        )
        yield* whileTimePasses(pool.shutdown({ deadline: 0 }))
        const before = yield* handle.exit
        yield* TestClock.adjust("1 hour")
        assert.isTrue(finalized)
        assert.strictEqual(yield* handle.exit, before)
        assert.deepInclude(yield* balanced(pool), { abandoned: 1, succeeded: 0, lateEnds: 1 })
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.strictEqual(lines.filter((line) => line.includes("ended after it was abandoned")).length, 1)
    })
  )

  it.effect("a second call gets the same report, and the earlier deadline wins", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      yield* pool.submit(Effect.never)
      const first = yield* Effect.forkChild(pool.shutdown({ deadline: "1 hour" }), { startImmediately: true })
      const second = yield* Effect.forkChild(pool.shutdown({ deadline: "1 second" }), { startImmediately: true })
      const third = yield* Effect.forkChild(pool.shutdown({ deadline: "1 day" }), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      const reports = yield* Fiber.joinAll([first, second, third])
      assert.strictEqual(reports[0], reports[1])
      assert.strictEqual(reports[0], reports[2])
      assert.strictEqual(reports[0], yield* pool.shutdown())
    })
  )

  it.effect("interrupting one who waits for the shutdown does not stop it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const waiting = yield* Effect.forkChild(pool.shutdown(), { startImmediately: true })
      yield* Fiber.interrupt(waiting)
      assert.strictEqual((yield* Effect.flip(pool.submit(Effect.void)))._tag, "PoolClosed")
      yield* work.open
      assert.strictEqual((yield* pool.shutdown()).drained, 1)
    })
  )

  for (const deadline of [0, -5, "-1 hour"] as const) {
    it.effect(`a deadline of ${deadline} interrupts at once`, () =>
      Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
        yield* pool.submit(Effect.never)
        const report = yield* pool.shutdown({ deadline })
        assert.strictEqual(report.interrupted.length, 1)
        assert.strictEqual(report.elapsed, 0)
      })
    )
  }

  it.effect("an empty pool closes at once", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      assert.deepInclude(yield* pool.shutdown(), { drained: 0, dropped: 0 })
    })
  )

  it.effect("drain runs everything that was accepted, also when the pool is paused", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      yield* pool.pause
      const handles = yield* pool.submitAll(
        Array.from({ length: 10 }, (_, n) => Effect.as(Effect.sleep("1 minute"), n))
      )
      const report = yield* whileTimePasses(pool.drain, { step: "1 minute" })
      assert.strictEqual(report.drained, 10)
      assert.strictEqual(yield* (handles[9] ?? assert.fail("ten handles")).await, 9)
    })
  )

  it.effect("a drain ends although tasks wait for a parked key, and drops them", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onKeyFailure: "park" })
      const failed = yield* pool.submit(Effect.fail("no"), { key: "a" })
      yield* failed.exit
      const parked = yield* pool.submit(Effect.void, { key: "a" })
      const report = yield* pool.drain
      assert.deepInclude(report, { dropped: 1, drained: 0 })
      assert.deepInclude(yield* Effect.flip(parked.await), { _tag: "PoolClosed", outcome: "dropped" })
    })
  )

  it.effect("closing the scope drains, warns when that was not enough, and hands the report on", () =>
    Effect.gen(function* () {
      const reports: Array<WorkerPool.ShutdownReport> = []
      const events: Array<string> = []
      const program = Effect.gen(function* () {
        yield* Registry.watch((event) => events.push(`${event._tag} ${event.entry.name}`))
        const pool = yield* WorkerPool.make({
          name: "p",
          concurrency: 1,
          shutdownDeadline: "1 second",
          onShutdown: (report) => Effect.sync(() => reports.push(report))
        })
        yield* pool.submit(Effect.never, { name: "stuck" })
        return pool
      })
      const own = Effect.provideService(Effect.scoped(program), Registry.Registry, Registry.makeUnsafe())
      const [, lines] = yield* logged(whileTimePasses(own))
      assert.strictEqual(reports.length, 1)
      assert.strictEqual(reports[0]?.interrupted[0]?.name, "stuck")
      assert.strictEqual(
        lines.filter((line) => line.startsWith("WARN") && line.includes("[stuck] interrupted")).length,
        1
      )
      assert.deepStrictEqual(events, ["Opened p", "Closed p"])
    })
  )

  it.effect("an onShutdown that hangs or dies does not keep the pool from closing", () =>
    Effect.gen(function* () {
      const hanging = WorkerPool.make({ name: "p", concurrency: 1, onShutdown: () => Effect.never })
      yield* whileTimePasses(Effect.scoped(hanging))
      const dying = WorkerPool.make({ name: "p", concurrency: 1, onShutdown: () => Effect.die("callback") })
      const [, lines] = yield* logged(Effect.scoped(dying))
      assert.strictEqual(lines.length, 1)
      assert.include(lines[0], 'onShutdown of pool "p" failed')
    })
  )

  it.effect("a finalizer that never ends is abandoned after the grace", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownGrace: "3 seconds" })
      const acquired = yield* Deferred.make<void>()
      yield* pool.submit(
        Effect.acquireUseRelease(
          Deferred.succeed(acquired, undefined),
          () => Effect.never,
          () => Effect.never
        )
      )
      yield* Deferred.await(acquired)
      const report = yield* whileTimePasses(pool.shutdown({ deadline: "1 second" }))
      assert.strictEqual(report.abandoned.length, 1)
    })
  )

  it.live("a task that never yields of itself is interrupted like any other: Effect's scheduler yields for it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      yield* pool.submit(Effect.forever(Effect.void, { disableYield: true }))
      const report = yield* pool.shutdown({ deadline: 10 })
      assert.strictEqual(report.interrupted.length, 1)
    })
  )

  it.effect("the scope of each task is closed with the task", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const events: Array<string> = []
      const resource = (name: string) =>
        Effect.acquireRelease(
          Effect.sync(() => events.push(`open ${name}`)),
          () => Effect.sync(() => events.push(`close ${name}`))
        )
      yield* pool.run(resource("a"))
      yield* Effect.exit(pool.run(Effect.andThen(resource("b"), Effect.fail("no"))))
      assert.deepStrictEqual(events, ["open a", "close a", "open b", "close b"])
      const exit = yield* Effect.exit(pool.run(Effect.addFinalizer(() => Effect.die("finalizer"))))
      assert.isTrue(Exit.hasDies(exit))
      assert.deepInclude(yield* balanced(pool), { succeeded: 1, failed: 1, defected: 1 })
    })
  )

  it.effect("a fiber that outlives its task finds the task's scope closed, also where the task had not used it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const events: Array<string> = []
      const late = Effect.acquireRelease(
        Effect.sync(() => events.push("acquired")),
        () => Effect.sync(() => events.push("released"))
      )
      const outliving = yield* pool.run(Effect.forkDetach(Effect.andThen(Effect.sleep("1 second"), late)))
      yield* TestClock.adjust("1 second")
      yield* Fiber.await(outliving)
      assert.deepStrictEqual(events, ["acquired", "released"])
    })
  )

  it.effect("noLeaks sees a pool that nobody closed, and one whose task was abandoned", () =>
    Effect.gen(function* () {
      const open = Effect.gen(function* () {
        const scope = yield* Scope.make()
        const pool = yield* WorkerPool.make({ name: "forgotten", concurrency: 1 }).pipe(Scope.provide(scope))
        yield* pool.submit(Effect.never, { name: "busy" })
      })
      const leak = yield* Effect.exit(noLeaks(open))
      assert.include(String(leak), "forgotten")
      assert.include(String(leak), "busy (running")
      const abandoning = Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownDeadline: 0, shutdownGrace: 0 })
        yield* pool.submit(Effect.uninterruptible(Effect.never), { name: "immortal" })
      })
      assert.include(String(yield* Effect.exit(whileTimePasses(noLeaks(abandoning)))), "immortal")
      yield* noLeaks(Effect.flatMap(WorkerPool.make({ name: "p", concurrency: 1 }), (pool) => pool.run(Effect.void)))
    })
  )
})
