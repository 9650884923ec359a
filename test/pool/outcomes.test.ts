/** Promises 2, 5 and 6: one outcome for each task, a pool that never shrinks, and slots that are held to the real end. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Option, Schedule, Scope } from "effect"
import { TestClock } from "effect/testing"
import { WorkerPool } from "millrace"
import { whileTimePasses } from "millrace/testing"
import { balanced, gate } from "./support.ts"

describe("outcomes", () => {
  it.effect("each of the eight is recorded once", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const pool = yield* WorkerPool.make({
        name: "p",
        concurrency: 10,
        capacity: 1,
        onFull: "dropNewest",
        shutdownGrace: "1 second"
      }).pipe(Scope.provide(scope))
      yield* Effect.exit(pool.run(Effect.succeed(1)))
      yield* Effect.exit(pool.run(Effect.fail("no")))
      yield* Effect.exit(pool.run(Effect.die("bug")))
      yield* Effect.exit(pool.run(Effect.interrupt))
      const timed = yield* pool.submit(Effect.never, { timeout: "1 second" })
      yield* TestClock.adjust("1 second")
      yield* Effect.exit(timed.await)
      for (let i = 0; i < 10; i++) yield* pool.fork(Effect.uninterruptible(Effect.never))
      const expired = yield* pool.submit(Effect.void, { expiresIn: "1 second" })
      const dropped = yield* pool.submit(Effect.void)
      yield* Effect.exit(dropped.await)
      yield* TestClock.adjust("1 second")
      yield* Effect.exit(expired.await)
      const report = yield* whileTimePasses(pool.shutdown({ deadline: 0 }))
      assert.deepInclude(report.accounting, {
        accepted: 17,
        queued: 0,
        running: 0,
        succeeded: 1,
        failed: 1,
        defected: 1,
        interrupted: 1,
        timedOut: 1,
        expired: 1,
        dropped: 1,
        abandoned: 10
      })
      assert.isTrue(WorkerPool.isBalanced(report.accounting))
    })
  )

  it.effect("the books are balanced at every moment that any code can see", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 2 })
      let looks = 0
      const look = Effect.tap(balanced(pool), () => Effect.sync(() => looks++))
      const work = Effect.gen(function* () {
        yield* look
        yield* Effect.yieldNow
        yield* look
        yield* Effect.addFinalizer(() => look)
      })
      yield* Effect.forEach(
        Array.from({ length: 30 }),
        () => Effect.andThen(pool.submit(work), (handle) => Effect.andThen(look, Effect.andThen(handle.await, look))),
        { concurrency: 8, discard: true }
      )
      assert.strictEqual(looks, 150)
    })
  )

  it.effect("a task that dies or interrupts itself gives its slot back", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      for (let i = 0; i < 20; i++) {
        yield* Effect.exit(
          pool.run(Effect.andThen(Effect.yieldNow, i % 2 === 0 ? Effect.die("bug") : Effect.interrupt))
        )
      }
      const both = yield* Deferred.make<void>()
      let running = 0
      const meet = Effect.suspend(() => (++running === 2 ? Deferred.succeed(both, undefined) : Deferred.await(both)))
      // Needs two slots at the same time.
      yield* Effect.all([pool.run(meet), pool.run(meet)], { concurrency: 2 })
      assert.deepInclude(yield* balanced(pool), { defected: 10, interrupted: 10, succeeded: 2 })
    })
  )

  it.effect("a task takes its children with it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const ended = yield* Deferred.make<string>()
      const child = Effect.onInterrupt(Effect.never, () => Deferred.succeed(ended, "interrupted"))
      yield* Effect.exit(
        pool.run(Effect.andThen(Effect.forkChild(child, { startImmediately: true }), Effect.die("parent")))
      )
      assert.strictEqual(yield* Deferred.await(ended), "interrupted")
    })
  )

  it.effect("a timed-out task keeps its slot until its finalizers have ended, and is counted as overrunning", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const slow = Effect.onInterrupt(Effect.never, () => Effect.sleep("10 seconds"))
      const handle = yield* pool.submit(slow, { timeout: "1 second", name: "slow" })
      const next = yield* pool.submit(Effect.succeed("next"))
      yield* TestClock.adjust("5 seconds")
      assert.deepInclude(yield* balanced(pool), { running: 1, overrunning: 1, queued: 1, timedOut: 0 })
      assert.isTrue(Option.isNone(yield* handle.poll))
      yield* TestClock.adjust("6 seconds")
      const error = yield* Effect.flip(handle.await)
      assert.instanceOf(error, WorkerPool.TaskTimedOut)
      assert.deepInclude(error, { task: "slow", timeout: 1000 })
      assert.strictEqual(yield* next.await, "next")
      assert.deepInclude(yield* balanced(pool), { running: 0, overrunning: 0, timedOut: 1, succeeded: 1 })
    })
  )

  it.effect("timeout counts from the start of the run, over all retries, and is not the task's own timeout", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const first = yield* pool.submit(Effect.sleep("1 minute"))
      let attempts = 0
      const failing = Effect.suspend(() => Effect.fail(`attempt ${++attempts}`))
      const retried = yield* pool.submit(failing, { retry: Schedule.spaced("1 second"), timeout: "3500 millis" })
      const own = yield* pool.submit(Effect.timeout(Effect.never, "1 second"), { timeout: "1 hour" })
      yield* TestClock.adjust("2 minutes")
      yield* first.await
      const error = yield* Effect.flip(retried.await)
      assert.instanceOf(error, WorkerPool.TaskTimedOut)
      assert.strictEqual(attempts, 4)
      assert.isTrue(Cause.isTimeoutError(yield* Effect.flip(own.await)))
      assert.deepInclude(yield* balanced(pool), { timedOut: 1, failed: 1 })
    })
  )

  it.effect("a defect on the way out of a timeout is not lost", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const handle = yield* pool.submit(
        Effect.onInterrupt(Effect.never, () => Effect.die("finalizer")),
        { timeout: "1 second" }
      )
      yield* TestClock.adjust("1 second")
      const exit = yield* handle.exit
      assert.isTrue(Exit.isFailure(exit) && Cause.hasFails(exit.cause) && Cause.hasDies(exit.cause))
      assert.deepInclude(yield* balanced(pool), { timedOut: 1, defected: 0 })
    })
  )

  it.effect("retry runs again by the schedule and then gives the last failure", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      let attempts = 0
      const flaky = Effect.suspend(() => (++attempts < 3 ? Effect.fail("not yet") : Effect.succeed(attempts)))
      assert.strictEqual(yield* pool.run(flaky, { retry: Schedule.recurs(5) }), 3)
      attempts = -10
      assert.strictEqual(yield* Effect.flip(pool.run(flaky, { retry: Schedule.recurs(1) })), "not yet")
      assert.deepInclude(yield* balanced(pool), { accepted: 2, succeeded: 1, failed: 1 })
    })
  )

  it.effect("cancel takes a queued task out and waits for the end of a running one", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      // The first sleep of a test clock, in a finalizer, would itself be interrupted (its warning is interruptible).
      yield* TestClock.adjust(0)
      let ended = false
      const finalizer = Effect.andThen(
        Effect.sleep("1 second"),
        Effect.sync(() => (ended = true))
      )
      const running = yield* pool.submit(Effect.onInterrupt(Effect.never, () => finalizer))
      const queued = yield* pool.submit(Effect.die("must not run"))
      yield* queued.cancel
      assert.isTrue(Exit.hasInterrupts(yield* queued.exit))
      const cancelling = yield* Effect.forkChild(running.cancel, { startImmediately: true })
      assert.deepInclude(yield* balanced(pool), { running: 1, overrunning: 1, interrupted: 1 })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(cancelling)
      assert.isTrue(ended)
      yield* running.cancel
      assert.deepInclude(yield* balanced(pool), { running: 0, interrupted: 2 })
    })
  )

  it.effect("interrupting run cancels its task, wherever it is, and waits for its end", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      let ended = false
      const finalizer = Effect.andThen(
        Effect.yieldNow,
        Effect.sync(() => (ended = true))
      )
      const running = yield* Effect.forkChild(pool.run(Effect.onInterrupt(Effect.never, () => finalizer)), {
        startImmediately: true
      })
      const queued = yield* Effect.forkChild(pool.run(Effect.die("must not run")), { startImmediately: true })
      const blocked = yield* Effect.forkChild(pool.run(Effect.die("must not run")), { startImmediately: true })
      assert.deepInclude(yield* balanced(pool), { running: 1, queued: 1, blocked: 1 })
      yield* Fiber.interrupt(blocked)
      yield* Fiber.interrupt(queued)
      yield* Fiber.interrupt(running)
      assert.isTrue(ended)
      assert.deepInclude(yield* balanced(pool), { accepted: 2, running: 0, queued: 0, blocked: 0, interrupted: 2 })
    })
  )

  it.effect("interrupting await does not cancel the task", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const work = yield* gate
      const handle = yield* pool.submit(Effect.as(work.pass, "done"))
      const waiting = yield* Effect.forkChild(handle.await, { startImmediately: true })
      yield* Fiber.interrupt(waiting)
      yield* work.open
      assert.strictEqual(yield* handle.await, "done")
    })
  )

  it.effect("map keeps the order of the items and stops at the first failure", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 4 })
      const slowFirst = (n: number) => Effect.as(Effect.sleep(100 - n), n * 2)
      const items = Array.from({ length: 100 }, (_, n) => n)
      const mapping = yield* Effect.forkChild(pool.map(items, slowFirst), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(
        yield* Fiber.join(mapping),
        items.map((n) => n * 2)
      )
      let begun = 0
      const failing = pool.map(items, (n) =>
        Effect.suspend(() => {
          begun++
          return n === 3 ? Effect.fail("three") : Effect.never
        })
      )
      assert.strictEqual(yield* Effect.flip(failing), "three")
      assert.isBelow(begun, 10)
      assert.deepInclude(yield* balanced(pool), { queued: 0, running: 0 })
    })
  )

  it.effect("mapStream keeps the order of the stream", () =>
    Effect.gen(function* () {
      const { Stream } = yield* Effect.promise(() => import("effect"))
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 4 })
      const numbers = Stream.range(1, 50).pipe(pool.mapStream((n) => Effect.as(Effect.sleep(50 - n), n)))
      const collecting = yield* Effect.forkChild(Stream.runCollect(numbers), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(
        [...(yield* Fiber.join(collecting))],
        Array.from({ length: 50 }, (_, n) => n + 1)
      )
    })
  )
})
