/** Promise 3: no lost error. Somebody hears of every failure, and of none twice. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, ErrorReporter, Exit, Fiber, Layer, Scope, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { WorkerPool } from "millrace"
import { balanced, gate, logged } from "./support.ts"

const pool = WorkerPool.make({ name: "p", concurrency: 2, shutdownDeadline: "1 second" })

describe("errors", () => {
  it.effect("run: the caller hears, and nobody else", () =>
    Effect.gen(function* () {
      const [error, lines] = yield* logged(
        Effect.scoped(Effect.flatMap(pool, (p) => Effect.flip(p.run(Effect.fail("no")))))
      )
      assert.strictEqual(error, "no")
      assert.deepStrictEqual(lines, [])
    })
  )

  it.effect("a failed handle that was read is not reported: await, exit and poll read", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        const fail = Effect.andThen(Effect.yieldNow, Effect.fail("no"))
        yield* Effect.exit((yield* p.submit(fail)).await)
        yield* (yield* p.submit(fail)).exit
        const polled = yield* p.submit(Effect.fail("no"))
        yield* polled.poll
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.deepStrictEqual(lines, [])
    })
  )

  it.effect("a failed handle that nobody read is reported once, when the pool closes, with task and annotations", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        const handle = yield* p
          .submit(Effect.fail("lost"), { name: "resize" })
          .pipe(Effect.annotateLogs("request", "r-1"), Effect.withSpan("upload"))
        const waiting = yield* Effect.forkChild(Effect.never)
        yield* Fiber.interrupt(waiting)
        return handle
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.strictEqual(lines.length, 1)
      const line = lines[0] ?? ""
      assert.include(line, 'Task "resize" of pool "p" failed and nobody read its result')
      assert.include(line, '"request":"r-1"')
      assert.include(line, '"span":"upload"')
      assert.include(line, "lost")
    })
  )

  it.effect("an interrupted await has not read the result", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        const work = yield* gate
        const handle = yield* p.submit(Effect.andThen(work.pass, Effect.fail("lost")))
        const waiting = yield* Effect.forkChild(handle.await, { startImmediately: true })
        yield* Fiber.interrupt(waiting)
        yield* work.open
        yield* p.awaitIdle
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.strictEqual(lines.length, 1)
    })
  )

  it.effect("fork: a defect that nobody waits for is reported at once, and once", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        yield* p.fork(Effect.die(new Error("bug")), { name: "track" })
        yield* p.awaitIdle
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.strictEqual(lines.length, 1)
      assert.include(lines[0], 'Task "track" of pool "p" died and nobody read its result')
    })
  )

  it.effect("fork: onFailure hears of failures and defects, in the task's slot, and nothing is reported", () =>
    Effect.gen(function* () {
      const heard: Array<string> = []
      const program = Effect.gen(function* () {
        const p = yield* pool
        const onFailure = (cause: Cause.Cause<string | WorkerPool.PoolClosed>) =>
          Effect.andThen(
            Effect.map(p.accounting, ({ running }) => heard.push(`${Cause.squash(cause)} while ${running} running`)),
            Effect.yieldNow
          )
        yield* p.fork(Effect.fail("no"), { onFailure })
        yield* p.awaitIdle
        yield* p.fork(Effect.die("bug"), { onFailure })
        yield* p.awaitIdle
        return yield* balanced(p)
      })
      const [accounting, lines] = yield* logged(Effect.scoped(program))
      assert.deepStrictEqual(heard, ["no while 1 running", "bug while 1 running"])
      assert.deepStrictEqual(lines, [])
      assert.deepInclude(accounting, { failed: 1, defected: 1 })
    })
  )

  it.effect("fork: an onFailure that dies is reported as a defect", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        yield* p.fork(Effect.fail("no"), { name: "track", onFailure: () => Effect.die("handler") })
        yield* p.fork(Effect.fail("no"), {
          onFailure: () => {
            throw new Error("thrown by the handler")
          }
        })
        yield* p.awaitIdle
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.strictEqual(lines.length, 2)
      assert.include(lines[0], "handler")
      assert.include(lines[1], "thrown by the handler")
    })
  )

  it.effect("fork: dropped, expired and abandoned work is never silent", () =>
    Effect.gen(function* () {
      const heard: Array<string> = []
      const program = Effect.gen(function* () {
        const scope = yield* Scope.make()
        const p = yield* WorkerPool.make({
          name: "p",
          concurrency: 1,
          capacity: 1,
          onFull: "dropNewest",
          shutdownDeadline: 0,
          shutdownGrace: 0
        }).pipe(Scope.provide(scope))
        const onFailure = (cause: Cause.Cause<{ readonly _tag: string }>) =>
          Effect.sync(() => {
            const error = Cause.findErrorOption(cause)
            heard.push(error._tag === "Some" ? error.value._tag : "interrupt or defect")
          })
        yield* p.fork(Effect.uninterruptible(Effect.never), { onFailure })
        yield* p.fork(Effect.void, { onFailure, expiresIn: "1 second" })
        yield* p.fork(Effect.void, { onFailure })
        yield* p.fork(Effect.void, { name: "without onFailure" })
        yield* TestClock.adjust("1 second")
        yield* p.fork(Effect.void, { onFailure })
        const closing = yield* Effect.forkChild(p.shutdown(), { startImmediately: true })
        yield* TestClock.adjust(0)
        yield* Fiber.join(closing)
      })
      const [, lines] = yield* logged(program)
      assert.deepStrictEqual(heard, ["TaskDropped", "TaskExpired", "PoolClosed", "PoolClosed"])
      assert.isTrue(lines.some((line) => line.includes('Task "without onFailure"') && line.includes("TaskDropped")))
    })
  )

  it.effect("reports go to Effect's ErrorReporter where there is one, with the span of the submitter", () =>
    Effect.gen(function* () {
      const reports: Array<string> = []
      const reporter = ErrorReporter.make(({ error, fiber }) => {
        const span = fiber.getRef(Tracer.DisablePropagation) ? undefined : fiber.cache.span
        reports.push(`${error.message} in ${span?._tag === "Span" ? span.name : "no span"}`)
      })
      const program = Effect.gen(function* () {
        const p = yield* pool
        yield* p.fork(Effect.die(new Error("bug"))).pipe(Effect.withSpan("request"))
        yield* p.awaitIdle
      })
      const [, lines] = yield* logged(
        Effect.scoped(program).pipe(Effect.provide(ErrorReporter.layer([reporter])), Effect.provide(Layer.empty))
      )
      assert.deepStrictEqual(reports, ["bug in request"])
      assert.deepStrictEqual(lines, [])
    })
  )

  it.effect("a failure after its run was interrupted is reported, since nobody waits any more", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        const running = yield* Effect.forkChild(
          p.run(Effect.onInterrupt(Effect.never, () => Effect.die("in the finalizer"))),
          { startImmediately: true }
        )
        yield* Fiber.interrupt(running)
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.strictEqual(lines.length, 1)
      assert.include(lines[0], "in the finalizer")
    })
  )

  it.effect(
    "a failure that a waiter deep in a chain was about to see is reported when it is interrupted just then",
    () =>
      Effect.gen(function* () {
        let interrupted = 0
        // Somewhere among these lengths the stack is too deep to resume the last waiter at once.
        for (let length = 8; length <= 24; length++) {
          for (const last of ["submit", "run"] as const) {
            const program = Effect.gen(function* () {
              const p = yield* WorkerPool.make({ name: "p", concurrency: 100 })
              const work = yield* gate
              let handle = yield* p.submit(Effect.andThen(work.pass, Effect.fail("no")))
              for (let i = 1; i < length; i++) handle = yield* p.submit(handle.await)
              const waits =
                last === "run" ? p.run(handle.await) : Effect.flatMap(p.submit(handle.await), (h) => h.await)
              const waiter = yield* Effect.forkChild(waits, { startImmediately: true })
              yield* work.open
              yield* Effect.yieldNow
              yield* Fiber.interrupt(waiter)
              return yield* Fiber.await(waiter)
            })
            const [exit, lines] = yield* logged(Effect.scoped(program))
            const unseen = Exit.hasInterrupts(exit)
            if (unseen) interrupted++
            assert.strictEqual(lines.length, unseen ? 1 : 0, `${last}, ${length} deep: ${lines.join()}`)
          }
        }
        assert.isAbove(interrupted, 0)
      })
  )

  it.effect("an interruption is somebody's wish and is not reported", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        const p = yield* pool
        yield* p.submit(Effect.interrupt)
        const handle = yield* p.submit(Effect.never)
        yield* handle.cancel
      })
      const [, lines] = yield* logged(Effect.scoped(program))
      assert.deepStrictEqual(lines, [])
    })
  )
})
