/** Promise 9: what the submitter's fiber carries reaches the task; what belongs to the fiber itself does not. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, References, Scheduler, type Scope, Tracer } from "effect"
import { WorkerPool } from "millrace"
import { gate } from "./support.ts"

class Name extends Context.Service<Name, string>()("test/Name") {}
const Volume = Context.Reference<number>("test/Volume", { defaultValue: () => 0 })

const seen = Effect.gen(function* () {
  const name = yield* Name
  const volume = yield* Volume
  const annotations = yield* References.CurrentLogAnnotations
  const span = yield* Effect.currentParentSpan.pipe(
    Effect.map((span) => (span._tag === "Span" ? span.name : span.spanId)),
    Effect.orElseSucceed(() => "none")
  )
  return `${name} ${volume} ${JSON.stringify(annotations)} ${span}`
})

const asSubmitter =
  (name: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    effect.pipe(
      Effect.provideService(Name, name),
      Effect.provideService(Volume, name.length),
      Effect.annotateLogs("user", name),
      Effect.withSpan(`span of ${name}`)
    )

describe("context", () => {
  it.effect("services, references, log annotations and the parent span of the submitter reach the task", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const expected = (name: string) => `${name} ${name.length} {"user":"${name}"} span of ${name}`
      assert.strictEqual(yield* pool.run(seen).pipe(asSubmitter("ann")), expected("ann"))

      // Also when the task waits and is started by somebody else's end.
      const work = yield* gate
      yield* pool.submit(work.pass).pipe(asSubmitter("other"))
      const queued = yield* pool.submit(seen).pipe(asSubmitter("bob"))
      const forked = yield* Effect.forkChild(pool.run(seen).pipe(asSubmitter("carl")), { startImmediately: true })
      yield* work.open
      assert.strictEqual(yield* queued.await, expected("bob"))
      assert.strictEqual(yield* Fiber.join(forked), expected("carl"))
    })
  )

  it.effect("the task's scope is its own, not the submitter's", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const outer = yield* Effect.scope
      const inner = yield* pool.run(Effect.scope)
      assert.notStrictEqual(inner, outer)
      assert.strictEqual(yield* Effect.scope, outer)
      const program: Effect.Effect<void, WorkerPool.PoolClosed> = pool.run(
        Effect.asVoid(Effect.scope as Effect.Effect<Scope.Scope, never, Scope.Scope>)
      )
      yield* program
    })
  )

  it.effect("the submitter's uninterruptible mask does not travel", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const handle = yield* Effect.uninterruptible(pool.submit(Effect.never))
      yield* handle.cancel
      assert.deepInclude(yield* pool.accounting, { interrupted: 1 })
    })
  )

  it.effect("the scheduler is the pool's own: a task submitted from runSync goes on after it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const own = yield* Scheduler.Scheduler
      const handle = Effect.runSync(
        pool.submit(
          Effect.andThen(
            Effect.yieldNow,
            Effect.map(Scheduler.Scheduler, (scheduler) => scheduler === own)
          )
        )
      )
      assert.isTrue(yield* handle.await)
    })
  )

  it.effect("onFailure sees the submitter's context too", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      let heard = ""
      yield* pool
        .fork(Effect.fail("no"), { onFailure: () => Effect.map(seen, (text) => (heard = text)) })
        .pipe(asSubmitter("dora"))
      yield* pool.awaitIdle
      assert.strictEqual(heard, 'dora 4 {"user":"dora"} span of dora')
      assert.isDefined(Tracer.ParentSpan)
    })
  )
})
