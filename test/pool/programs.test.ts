/**
 * Random programs over pools that wait for each other in every way there is: whatever they do, they end, since a wait that
 * cannot end is found. Pools are full, weighed, keyed, paused, resized and closed, and have each of the policies.
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
  | { readonly _tag: "Fail"; readonly defect: boolean }
  | { readonly _tag: "InTurn"; readonly programs: ReadonlyArray<Program> }
  | { readonly _tag: "Run"; readonly pool: number; readonly program: Program; readonly options: Options }
  | {
      readonly _tag: "Submit"
      readonly pool: number
      readonly program: Program
      readonly options: Options
      readonly meanwhile: Program
      readonly atLast: "await" | "cancel" | "forget"
    }
  | {
      readonly _tag: "Map" | "SubmitAll"
      readonly pool: number
      readonly programs: ReadonlyArray<Program>
      readonly options: Options
    }
  | {
      readonly _tag: "Fork"
      readonly pool: number
      readonly program: Program
      readonly options: Options
      readonly onFailure: Program
    }
  | { readonly _tag: "Finally"; readonly program: Program; readonly finalizer: Program }
  | { readonly _tag: "Uninterruptible"; readonly program: Program }
  | { readonly _tag: "AwaitIdle" | "Pause" | "Resume" | "Drain"; readonly pool: number }
  | { readonly _tag: "Resize"; readonly pool: number; readonly slots: number }
  | { readonly _tag: "ResumeKey"; readonly pool: number; readonly key: string }
  | { readonly _tag: "Shutdown"; readonly pool: number; readonly deadline: number }

const small = fc.integer({ min: 1, max: 3 })
const pool = fc.nat(2)
const key = fc.constantFrom("a", "b")

/** Without what time or a close can end, a wait that nobody ends hangs for certain; with it there is more to go wrong. */
const programs = (everything: boolean): fc.Arbitrary<Program> => {
  const timeless = { key, weight: small, priority: fc.integer({ min: -1, max: 1 }) }
  const options: fc.Arbitrary<Options> = everything
    ? fc.record({ ...timeless, timeout: small, expiresIn: small }, { requiredKeys: [] })
    : fc.record(timeless, { requiredKeys: [] })
  const is = <T extends string>(tag: T) => fc.constant(tag)
  return fc.letrec<{ program: Program }>((tie) => {
    const program = tie("program")
    const programs = fc.array(program, { maxLength: 4, size: "max" })
    const basic: ReadonlyArray<fc.Arbitrary<Program>> = [
      fc.record({ _tag: is("Yield"), times: fc.nat(3) }),
      fc.record({ _tag: is("Fail"), defect: fc.boolean() }),
      fc.record({ _tag: is("InTurn"), programs }),
      fc.record({ _tag: is("Run"), pool, program, options }),
      fc.record({
        _tag: is("Submit"),
        pool,
        program,
        options,
        meanwhile: program,
        atLast: fc.constantFrom("await", "cancel", "forget")
      }),
      fc.record({ _tag: is("Map"), pool, programs, options }),
      fc.record({ _tag: is("AwaitIdle"), pool }),
      fc.record({ _tag: is("Resize"), pool, slots: small })
    ]
    const more: ReadonlyArray<fc.Arbitrary<Program>> = [
      fc.record({ _tag: is("SubmitAll"), pool, programs, options }),
      fc.record({ _tag: is("Fork"), pool, program, options, onFailure: program }),
      fc.record({ _tag: is("Finally"), program, finalizer: program }),
      fc.record({ _tag: is("Uninterruptible"), program }),
      fc.record({ _tag: fc.constantFrom("Pause", "Resume", "Drain"), pool }),
      fc.record({ _tag: is("ResumeKey"), pool, key }),
      fc.record({ _tag: is("Shutdown"), pool, deadline: fc.nat(3) })
    ]
    const size = { depthSize: "large", maxDepth: 5, withCrossShrink: true } as const
    return { program: fc.oneof(size, ...basic, ...(everything ? more : [])) }
  }).program
}

type AnyOptions = WorkerPool.Options<WorkerPool.OnFull, WorkerPool.OnKeyFailure>

const poolOptions = (everything: boolean): fc.Arbitrary<Omit<AnyOptions, "name">> =>
  fc.record({
    concurrency: small,
    capacity: fc.nat(3),
    capacityPerKey: fc.constantFrom(undefined, 1, 2),
    onKeyFailure: fc.constantFrom("continue", "stop", ...(everything ? (["park"] as const) : [])),
    onDeadlock: fc.constantFrom("die", "inline", "lend"),
    onFull: fc.constantFrom(
      "suspend",
      ...(everything ? (["suspend", "reject", "dropNewest", "dropOldest"] as const) : [])
    ),
    rateLimit: fc.constantFrom(undefined, ...(everything ? [undefined, { limit: 3, interval: 1 }] : []))
  })

type Pool = Effect.Success<ReturnType<typeof open>>
const open = (options: Omit<AnyOptions, "name">, n: number) =>
  WorkerPool.make({ ...options, name: `p${n}`, shutdownDeadline: 0, shutdownGrace: 0 })

const run = (pools: ReadonlyArray<Pool>, program: Program): Effect.Effect<unknown, unknown> =>
  Effect.suspend(() => {
    const at = (n: number) => pools[n % pools.length] ?? assert.fail("there is no pool")
    const go = (program: Program) => run(pools, program)
    switch (program._tag) {
      case "Yield":
        return Effect.replicateEffect(Effect.yieldNow, program.times, { discard: true })
      case "Fail":
        return program.defect ? Effect.die("no") : Effect.fail("no")
      case "InTurn":
        return Effect.forEach(program.programs, (one) => Effect.exit(go(one)))
      case "Run":
        return at(program.pool).run(go(program.program), program.options)
      case "Submit":
        return Effect.flatMap(at(program.pool).submit(go(program.program), program.options), (handle) => {
          const atLast = { await: handle.await, cancel: handle.cancel, forget: Effect.void }[program.atLast]
          return Effect.andThen(Effect.exit(go(program.meanwhile)), atLast)
        })
      case "Map":
        return at(program.pool).map(program.programs, go, program.options)
      case "SubmitAll":
        return Effect.flatMap(at(program.pool).submitAll(program.programs.map(go), program.options), (handles) =>
          Effect.forEach(handles, (handle) => handle.exit)
        )
      case "Fork": {
        const onFailure = () => Effect.exit(go(program.onFailure))
        return at(program.pool).fork(go(program.program), { ...program.options, onFailure })
      }
      case "Finally":
        return Effect.onExit(go(program.program), () => Effect.exit(go(program.finalizer)))
      case "Uninterruptible":
        return Effect.uninterruptible(go(program.program))
      case "AwaitIdle":
        return at(program.pool).awaitIdle
      case "Pause":
        return at(program.pool).pause
      case "Resume":
        return at(program.pool).resume
      case "Drain":
        return at(program.pool).drain
      case "Resize":
        return at(program.pool).resize(program.slots)
      case "ResumeKey":
        return at(program.pool).resumeKey(program.key)
      case "Shutdown":
        return at(program.pool).shutdown({ deadline: program.deadline })
    }
  })

const isIdleNow = ({ accounting }: Pool) =>
  Effect.map(accounting, ({ queued, running, blocked }) => queued + running + blocked === 0)

/** A pause and a parked key wait for somebody outside, who comes every few milliseconds. */
const resumeAll = (pools: ReadonlyArray<Pool>) =>
  Effect.forEach(pools, (one) => Effect.andThen(one.resume, Effect.forEach(["a", "b"], one.resumeKey)))

const end = (options: ReadonlyArray<Omit<AnyOptions, "name">>, all: ReadonlyArray<Program>): Effect.Effect<void> =>
  Effect.gen(function* () {
    const pools = yield* Effect.forEach(options, open)
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(3), resumeAll(pools))))
    yield* Effect.forEach(all, (program) => Effect.exit(run(pools, program)), { concurrency: "unbounded" })
    // What was submitted and forgotten; a pool that was idle may get more from one that is not yet.
    const isIdle = Effect.map(Effect.forEach(pools, isIdleNow), (idle) => idle.every((one) => one))
    yield* Effect.repeat(
      Effect.andThen(
        Effect.forEach(pools, ({ awaitIdle }) => awaitIdle),
        isIdle
      ),
      {
        until: (idle) => idle
      }
    )
    for (const { accounting } of pools) {
      const books = yield* accounting
      assert.isTrue(WorkerPool.isBalanced(books), JSON.stringify(books))
      assert.deepInclude(books, { queued: 0, running: 0, blocked: 0, overrunning: 0 })
    }
  }).pipe(Effect.scoped, Effect.provide(Logger.layer([])), Effect.timeout("5 seconds"), Effect.orDie)

describe("programs of tasks that wait for each other", () => {
  const check = (everything: boolean, numRuns: number) =>
    fc.assert(
      fc.asyncProperty(
        fc.array(poolOptions(everything), { minLength: 1, maxLength: 2 }),
        fc.array(programs(everything), { minLength: 1, maxLength: 5 }),
        (options, all) => Effect.runPromise(end(options, all))
      ),
      manyPrograms === undefined ? { numRuns, seed: 1 } : { numRuns: Number(manyPrograms) }
    )

  it("end", () => check(false, 2_000), time)
  it("end, whatever times out, expires, pauses or closes meanwhile", () => check(true, 2_000), time)
})
