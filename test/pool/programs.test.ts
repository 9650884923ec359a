/**
 * Random programs over pools that wait for each other in every way there is: whatever they do, they end, since a wait that
 * cannot end is found. Pools are full, weighed, keyed and resized, and have each of the policies.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import * as fc from "fast-check"
import { WorkerPool } from "millrace"

/**
 * The same programs each time, or, to look for more, `MILLRACE_PROGRAMS=100000 npm test -- test/pool/programs.test.ts`: that
 * many others, and a failure names the seed.
 */
const manyPrograms = process.env.MILLRACE_PROGRAMS
const time = manyPrograms === undefined ? 30_000 : 3_600_000

interface Options {
  readonly key?: string
  readonly weight?: number
  readonly priority?: number
  readonly timeout?: number
  readonly expiresIn?: number
}

type Program =
  | { readonly _tag: "Yield"; readonly times: number }
  | { readonly _tag: "Fail" }
  | { readonly _tag: "InTurn"; readonly programs: ReadonlyArray<Program> }
  | { readonly _tag: "Uninterruptible"; readonly program: Program }
  | { readonly _tag: "Run"; readonly pool: number; readonly program: Program; readonly options: Options }
  | {
      readonly _tag: "Submit"
      readonly pool: number
      readonly program: Program
      readonly options: Options
      readonly meanwhile: Program
      readonly atLast: "await" | "cancel" | "forget"
    }
  | { readonly _tag: "AwaitIdle"; readonly pool: number }
  | { readonly _tag: "Resize"; readonly pool: number; readonly slots: number }

const small = fc.integer({ min: 1, max: 3 })
const pool = fc.nat(2)

const programs = (withTime: boolean): fc.Arbitrary<Program> => {
  const timeless = { key: fc.constantFrom("a", "b"), weight: small, priority: fc.integer({ min: -1, max: 1 }) }
  const options: fc.Arbitrary<Options> = withTime
    ? fc.record({ ...timeless, timeout: small, expiresIn: small }, { requiredKeys: [] })
    : fc.record(timeless, { requiredKeys: [] })
  return fc.letrec<{ program: Program }>((tie) => {
    const program = tie("program")
    return {
      program: fc.oneof(
        { depthSize: "large", maxDepth: 5, withCrossShrink: true },
        fc.record({ _tag: fc.constant("Yield" as const), times: fc.nat(3) }),
        fc.record({ _tag: fc.constant("Fail" as const) }),
        fc.record({ _tag: fc.constant("InTurn" as const), programs: fc.array(program, { maxLength: 4, size: "max" }) }),
        fc.record({ _tag: fc.constant("Run" as const), pool, program, options }),
        fc.record({
          _tag: fc.constant("Submit" as const),
          pool,
          program,
          options,
          meanwhile: program,
          atLast: fc.constantFrom("await" as const, "cancel" as const, "forget" as const)
        }),
        fc.record({ _tag: fc.constant("AwaitIdle" as const), pool }),
        fc.record({ _tag: fc.constant("Resize" as const), pool, slots: small }),
        ...(withTime ? [fc.record({ _tag: fc.constant("Uninterruptible" as const), program })] : [])
      )
    }
  }).program
}

const poolOptions = fc.record({
  concurrency: small,
  capacity: fc.nat(3),
  capacityPerKey: fc.constantFrom(undefined, 1, 2),
  onKeyFailure: fc.constantFrom("continue" as const, "stop" as const),
  onDeadlock: fc.constantFrom("die" as const, "inline" as const, "lend" as const)
})

type Pool = Effect.Success<ReturnType<typeof open>>
const open = (options: WorkerPool.Options<"suspend", "continue" | "stop">, n: number) =>
  WorkerPool.make({ ...options, name: `p${n}`, shutdownDeadline: 0, shutdownGrace: 0 })

const run = (pools: ReadonlyArray<Pool>, program: Program): Effect.Effect<unknown, unknown> =>
  Effect.suspend(() => {
    const at = (n: number) => pools[n % pools.length] ?? assert.fail("there is no pool")
    switch (program._tag) {
      case "Yield":
        return Effect.replicateEffect(Effect.yieldNow, program.times, { discard: true })
      case "Fail":
        return Effect.fail("no")
      case "InTurn":
        return Effect.forEach(program.programs, (one) => Effect.exit(run(pools, one)))
      case "Uninterruptible":
        return Effect.uninterruptible(run(pools, program.program))
      case "Run":
        return at(program.pool).run(run(pools, program.program), program.options)
      case "Submit":
        return Effect.flatMap(at(program.pool).submit(run(pools, program.program), program.options), (handle) => {
          const atLast = { await: handle.await, cancel: handle.cancel, forget: Effect.void }[program.atLast]
          return Effect.andThen(Effect.exit(run(pools, program.meanwhile)), atLast)
        })
      case "AwaitIdle":
        return at(program.pool).awaitIdle
      case "Resize":
        return at(program.pool).resize(program.slots)
    }
  })

const isIdleNow = ({ accounting }: Pool) =>
  Effect.map(accounting, ({ queued, running, blocked }) => queued + running + blocked === 0)

const end = (
  options: ReadonlyArray<WorkerPool.Options<"suspend", "continue" | "stop">>,
  all: ReadonlyArray<Program>
): Effect.Effect<void> =>
  Effect.gen(function* () {
    const pools = yield* Effect.forEach(options, open)
    yield* Effect.forEach(all, (program) => Effect.exit(run(pools, program)), { concurrency: "unbounded" })
    // What was submitted and forgotten; a pool that was idle may get more from one that is not yet.
    const isIdle = Effect.map(Effect.forEach(pools, isIdleNow), (idle) => idle.every((one) => one))
    yield* Effect.repeat(
      Effect.andThen(
        Effect.forEach(pools, ({ awaitIdle }) => awaitIdle),
        isIdle
      ),
      { until: (idle) => idle }
    )
    for (const { accounting } of pools) {
      const books = yield* accounting
      assert.isTrue(WorkerPool.isBalanced(books), JSON.stringify(books))
      assert.deepInclude(books, { queued: 0, running: 0, blocked: 0, overrunning: 0 })
    }
  }).pipe(Effect.scoped, Effect.provide(Logger.layer([])), Effect.timeout("5 seconds"), Effect.orDie)

describe("programs of tasks that wait for each other", () => {
  const check = (withTime: boolean, numRuns: number) =>
    fc.assert(
      fc.asyncProperty(
        fc.array(poolOptions, { minLength: 1, maxLength: 2 }),
        fc.array(programs(withTime), { minLength: 1, maxLength: 5 }),
        (options, all) => Effect.runPromise(end(options, all))
      ),
      manyPrograms === undefined ? { numRuns, seed: 1 } : { numRuns: Number(manyPrograms) }
    )

  it("end", () => check(false, 2_000), time)
  it("end, also where timeouts and expiries change what they wait for", () => check(true, 300), time)
})
