/** Each wrong input has a documented answer, and nothing throws out of an Effect. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { Background, Registry, TaskDump, WorkerPool } from "millrace"

const problemOf = (exit: Exit.Exit<unknown, unknown>): string => {
  const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  if (!(defect instanceof WorkerPool.InvalidOption)) throw new Error(`not an InvalidOption: ${String(defect)}`)
  return defect.message
}

describe("bad input", () => {
  const wrong: ReadonlyArray<readonly [what: string, options: Record<string, unknown>, sentence: RegExp]> = [
    [
      "concurrency 0",
      { concurrency: 0 },
      /concurrency.*whole number of at least 1.*got 0|whole number of at least 1[\s\S]*concurrency/
    ],
    ["concurrency NaN", { concurrency: Number.NaN }, /got NaN/],
    ["concurrency Infinity", { concurrency: Number.POSITIVE_INFINITY }, /got Infinity/],
    ["no concurrency", {}, /Missing key[\s\S]*concurrency/],
    ["capacity -1", { concurrency: 1, capacity: -1 }, /at least 0[\s\S]*got -1/],
    ["capacity NaN", { concurrency: 1, capacity: Number.NaN }, /got NaN/],
    ["capacity 1.5", { concurrency: 1, capacity: 1.5 }, /got 1.5/],
    ["capacity Infinity", { concurrency: 1, capacity: Number.POSITIVE_INFINITY }, /got Infinity/],
    [
      "an unknown policy",
      { concurrency: 1, onFull: "block" },
      /"suspend", "reject", "dropNewest", "dropOldest", got "block"/
    ],
    ["an empty name", { concurrency: 1, name: " " }, /must not be empty/],
    ["a rate of 0", { concurrency: 1, rateLimit: { limit: 0, interval: "1 second" } }, /got 0/],
    ["a rate per nothing", { concurrency: 1, rateLimit: { limit: 1, interval: 0 } }, /duration of more than zero/],
    [
      "a deadline that is none",
      { concurrency: 1, shutdownDeadline: "soon" },
      /duration of zero or more[\s\S]*got "soon"/
    ],
    ["a negative deadline", { concurrency: 1, shutdownDeadline: -1 }, /duration of zero or more[\s\S]*got -1/],
    ["a deadline of NaN", { concurrency: 1, shutdownGrace: Number.NaN }, /got NaN/]
  ]
  for (const [what, options, sentence] of wrong) {
    it.effect(`WorkerPool.make with ${what}: a defect that says what is allowed`, () =>
      Effect.gen(function* () {
        // What a caller without types, or a configuration file, can bring.
        const unchecked = { name: "p", ...options } as unknown as { name: string; concurrency: number }
        const problem = problemOf(yield* Effect.exit(WorkerPool.make(unchecked)))
        assert.match(problem, /^WorkerPool\.make: /)
        assert.match(problem, sentence)
      })
    )
  }

  it.effect("all wrong options are named at once", () =>
    Effect.gen(function* () {
      const problem = problemOf(yield* Effect.exit(WorkerPool.make({ name: "", concurrency: 0, capacity: -1 })))
      assert.strictEqual(problem.split("\n").filter((line) => line.includes("must")).length, 3)
    })
  )

  it.effect("options of a task: a defect of the submission, and the pool goes on", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const submit = (options: { weight?: number; priority?: number; timeout?: number; expiresIn?: number }) =>
        Effect.exit(pool.submit(Effect.void, options))
      assert.match(problemOf(yield* submit({ weight: 0 })), /submit: weight.*at least 1, got 0/)
      assert.match(problemOf(yield* submit({ weight: 1.5 })), /got 1.5/)
      assert.match(problemOf(yield* submit({ priority: Number.NaN })), /priority.*finite.*got NaN/)
      assert.match(problemOf(yield* submit({ timeout: Number.NaN })), /timeout.*duration.*got NaN/)
      assert.match(problemOf(yield* submit({ expiresIn: Number.NaN })), /expiresIn/)
      assert.match(problemOf(yield* Effect.exit(pool.resize(0))), /resize.*got 0; use pause/)
      assert.match(problemOf(yield* Effect.exit(pool.shutdown({ deadline: Number.NaN }))), /deadline/)
      assert.strictEqual(yield* pool.run(Effect.succeed("open")), "open")
      assert.deepInclude(yield* pool.accounting, { accepted: 1 })
    })
  )

  it.effect("a timeout or expiry in the past has passed", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownDeadline: 0 })
      const error = yield* Effect.flip(pool.run(Effect.never, { timeout: -1 }))
      assert.strictEqual(error._tag, "TaskTimedOut")
      yield* pool.submit(Effect.never)
      const expired = yield* pool.submit(Effect.void, { expiresIn: "-1 hour" })
      assert.strictEqual((yield* Effect.flip(expired.await))._tag, "TaskExpired")
    })
  )

  it.effect("two pools of one name are two entries of the registry", () =>
    Effect.gen(function* () {
      const make = WorkerPool.make({ name: "same", concurrency: 1 })
      const pools = yield* Effect.all([make, make])
      assert.strictEqual(yield* pools[0].run(pools[1].run(Effect.succeed("two"))), "two")
      assert.strictEqual((yield* TaskDump.dump).match(/WorkerPool "same"/g)?.length, 2)
    }).pipe(Effect.provideService(Registry.Registry, Registry.makeUnsafe()))
  )

  it.effect("work that throws outside of any effect is a defect of its task", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const throwing = Effect.suspend((): Effect.Effect<void> => {
        throw new Error("thrown")
      })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(pool.run(throwing))))
      assert.isTrue(
        Exit.hasDies(
          yield* Effect.exit(
            pool.map([1], (): Effect.Effect<void> => {
              throw new Error("thrown")
            })
          )
        )
      )
      assert.deepInclude(yield* pool.accounting, { defected: 2, running: 0 })
    })
  )

  it.effect("a long chain of tasks that submit each other does not overflow the stack", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 50_000 })
      const chain = (n: number): Effect.Effect<number, WorkerPool.PoolClosed> =>
        n === 0 ? Effect.succeed(0) : Effect.map(pool.run(Effect.suspend(() => chain(n - 1))), (m) => m + 1)
      assert.strictEqual(yield* pool.run(chain(10_000)), 10_000)
    })
  )

  it.effect("Background.make checks its options too", () =>
    Effect.gen(function* () {
      assert.match(
        problemOf(yield* Effect.exit(Background.make({ maxInFlight: 0 }))),
        /^Background\.make: maxInFlight must be a whole number of at least 1, got 0$/
      )
    })
  )
})
