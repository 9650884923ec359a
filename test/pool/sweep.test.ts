/**
 * Every operation of a pool, interrupted at every point: no slot leaks, no handle stays unsettled, the books are exact.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Latch, Logger, Option } from "effect"
import { WorkerPool } from "millrace"
import { everyInterruptionPoint } from "millrace/testing"
import { balanced } from "./support.ts"

type Policy = "suspend" | "reject" | "dropNewest" | "dropOldest"

/** A pool of one slot in a state, the latch that lets its tasks end, and every handle that was handed out. */
const inState = (state: "idle" | "busy" | "full" | "keyed" | "paused" | "closing", onFull: Policy) =>
  Effect.gen(function* () {
    const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, onFull, shutdownDeadline: 0 })
    const latch = Latch.makeUnsafe()
    const handles: Array<WorkerPool.TaskHandle<unknown, unknown>> = []
    const key = state === "keyed" ? "k" : undefined
    if (state !== "idle" && state !== "paused") handles.push(yield* pool.submit(latch.await, { key }))
    if (state === "full" || state === "keyed") handles.push(yield* pool.submit(Effect.void, { key }))
    if (state === "paused") yield* pool.pause
    if (state === "closing") yield* Effect.forkScoped(pool.drain, { startImmediately: true })
    return { pool, latch, handles, key }
  })
type InState = Effect.Success<ReturnType<typeof inState>>

/** Lets everything end that can end, and checks what was promised. */
const settled = ({ handles, latch, pool }: InState) =>
  Effect.gen(function* () {
    yield* balanced(pool)
    yield* latch.open
    yield* pool.resume
    yield* pool.awaitIdle
    const idle = yield* balanced(pool)
    assert.deepInclude(idle, { running: 0, queued: 0, overrunning: 0, blocked: 0 })
    for (const handle of handles) assert.isTrue(Option.isSome(yield* handle.poll), `${handle.name} is not settled`)
    // The slot is free: the pool runs again, unless it was closed.
    const again = yield* Effect.exit(pool.run(Effect.succeed("again")))
    if (again._tag === "Success") assert.strictEqual(again.value, "again")
    else assert.include(String(again), "PoolClosed")
    const report = yield* pool.shutdown()
    assert.deepInclude(report.accounting, { running: 0, queued: 0, abandoned: 0 })
  })

const work = Effect.andThen(Effect.yieldNow, Effect.succeed("done"))

/** The latch opens by itself a little later, so that what waits for it ends also when nothing is interrupted. */
const soon = ({ latch }: InState) =>
  Effect.forkDetach(Effect.andThen(Effect.andThen(Effect.yieldNow, Effect.yieldNow), latch.open), {
    startImmediately: true
  })

const operations: Record<string, (state: InState) => Effect.Effect<unknown, unknown>> = {
  submit: (state) => Effect.map(state.pool.submit(work, { key: state.key }), (handle) => state.handles.push(handle)),
  "submit, then await": (state) =>
    Effect.flatMap(state.pool.submit(work, { key: state.key }), (handle) => {
      state.handles.push(handle)
      return handle.await
    }),
  run: (state) => state.pool.run(work, { key: state.key }),
  "run with finalizers": (state) =>
    state.pool.run(
      Effect.acquireUseRelease(
        Effect.yieldNow,
        () => work,
        () => Effect.yieldNow
      ),
      { key: state.key }
    ),
  "run that fails": (state) => Effect.exit(state.pool.run(Effect.andThen(Effect.yieldNow, Effect.fail("no")))),
  fork: (state) => state.pool.fork(Effect.fail("no"), { key: state.key, onFailure: () => Effect.yieldNow }),
  submitAll: (state) =>
    Effect.map(state.pool.submitAll([work, work, work], { key: state.key }), (handles) =>
      state.handles.push(...handles)
    ),
  map: (state) => state.pool.map([1, 2, 3], () => work, { key: state.key }),
  cancel: (state) => Effect.forEach(state.handles, (handle) => handle.cancel),
  awaitIdle: (state) => state.pool.awaitIdle,
  pause: (state) => Effect.andThen(state.pool.pause, state.pool.resume),
  resize: (state) => Effect.andThen(state.pool.resize(3), state.pool.resize(1)),
  drain: (state) => state.pool.drain,
  shutdown: (state) => state.pool.shutdown({ deadline: 0 })
}

/** Interrupted pools warn, as they should; here they do so some thousand times. */
const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.provide(effect, Logger.layer([]))

describe("every interruption point", () => {
  for (const onFull of ["suspend", "reject", "dropNewest", "dropOldest"] as const) {
    for (const state of ["idle", "busy", "full", "keyed", "paused", "closing"] as const) {
      it.live(`onFull ${onFull}, pool ${state}`, () =>
        Effect.gen(function* () {
          for (const [name, operation] of Object.entries(operations)) {
            // A paused pool has no end to wait for.
            if (
              state === "paused" &&
              !["submit", "fork", "cancel", "pause", "resize", "drain", "shutdown"].includes(name)
            )
              continue
            const points = yield* everyInterruptionPoint(
              inState(state, onFull),
              (s) => Effect.andThen(soon(s), operation(s)),
              settled
            ).pipe(
              quietly,
              Effect.catchDefect((defect) => Effect.die(new Error(`${name}: ${String(defect)}`)))
            )
            assert.isAbove(points, 2, name)
          }
        })
      )
    }
  }

  it.live("key hand-over: the next task of a key runs, whoever is interrupted", () =>
    Effect.gen(function* () {
      yield* everyInterruptionPoint(
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 10, capacityPerKey: 1 })
          return { pool, order: [] as Array<number> }
        }),
        ({ order, pool }) =>
          Effect.forEach([1, 2, 3], (n) =>
            pool.submit(
              Effect.andThen(
                Effect.yieldNow,
                Effect.sync(() => order.push(n))
              ),
              { key: "k" }
            )
          ).pipe(
            Effect.andThen(
              pool.run(
                Effect.sync(() => order.push(4)),
                { key: "k" }
              )
            )
          ),
        ({ order, pool }) =>
          Effect.gen(function* () {
            yield* pool.awaitIdle
            assert.deepStrictEqual(
              order,
              [...order].sort((a, b) => a - b)
            )
            assert.deepInclude(yield* balanced(pool), { blocked: 0, queued: 0, running: 0 })
            assert.strictEqual(yield* pool.run(Effect.succeed("free"), { key: "k" }), "free")
          })
      )
    })
  )

  it.live("nested work: the waits of a task are taken back when it is interrupted", () =>
    Effect.gen(function* () {
      for (const onDeadlock of ["die", "inline", "lend"] as const) {
        yield* everyInterruptionPoint(
          WorkerPool.make({ name: "p", concurrency: 1, onDeadlock }),
          (pool) => Effect.exit(pool.run(pool.run(work))),
          (pool) =>
            Effect.gen(function* () {
              yield* pool.awaitIdle
              yield* balanced(pool)
              let most = 0
              let now = 0
              const counted = Effect.andThen(
                Effect.sync(() => (most = Math.max(most, ++now))),
                Effect.andThen(
                  Effect.yieldNow,
                  Effect.sync(() => now--)
                )
              )
              const fibers = yield* Effect.forEach([1, 2], () => Effect.forkChild(pool.run(counted)))
              yield* Fiber.joinAll(fibers)
              assert.strictEqual(most, 1)
            })
        )
      }
    })
  )

  it.live("the sweep itself finds a leak", () =>
    Effect.gen(function* () {
      let held = 0
      const leaky = Effect.gen(function* () {
        held++
        yield* Effect.yieldNow
        held--
      })
      const exit = yield* Effect.exit(
        everyInterruptionPoint(leaky, () =>
          Effect.sync(() => {
            const leaked = held
            held = 0
            assert.strictEqual(leaked, 0)
          })
        )
      )
      assert.include(String(exit), "the invariant does not hold")
      assert.match(String(exit), /Interrupted (before|after) operation \d+/)
    })
  )
})
