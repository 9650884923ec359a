/**
 * Runs an effect again and again and interrupts it at its first operation, at its second, and so on until it completes.
 *
 * An interruption that comes at the wrong moment is the commonest cause of a leaked slot, a lost message or a handle that
 * never settles, and a test that interrupts "after a while" meets the wrong moment once in a thousand runs. This one meets
 * every moment, each time in the same order. (The idea is that of Effect's own tests of its `Semaphore`.)
 *
 * **When to use**
 *
 * Use it for operations that acquire something, or that promise an outcome.
 *
 * **Details**
 *
 * Each point is tried in two ways: the fiber is interrupted before the operation, and in the turn of the event loop after it,
 * when it may be suspended. Only the fiber of the effect is interrupted; fibers that it forks go on as its own code says.
 *
 * **Gotchas**
 *
 * Uninterrupted, the effect must complete: the last run is the one in which nothing was left to interrupt.
 *
 * **Example** (No slot leaks, wherever `run` is interrupted)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { WorkerPool } from "millrace"
 * import { everyInterruptionPoint } from "millrace/testing"
 *
 * const points = everyInterruptionPoint(
 *   WorkerPool.make({ name: "swept", concurrency: 1, capacity: 1 }),
 *   (pool) => pool.run(Effect.yieldNow),
 *   (pool) =>
 *     Effect.gen(function*() {
 *       yield* pool.awaitIdle
 *       const accounting = yield* pool.accounting
 *       if (!WorkerPool.isBalanced(accounting)) return yield* Effect.die("unbalanced")
 *     })
 * )
 *
 * const swept = await Effect.runPromise(points)
 * swept > 2 // => true
 * ```
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"

/** The invariant did not hold after an interruption. */
export class InvariantBroken extends Schema.TaggedError<InvariantBroken>("millrace/InvariantBroken")(
  "InvariantBroken",
  {
    /** The operation at which the effect was interrupted, counted from 1. */
    operation: Schema.Number,
    when: Schema.Literals(["before", "after"]),
    reason: Schema.String
  }
) {
  override get message(): string {
    return `Interrupted ${this.when} operation ${this.operation}, the invariant does not hold:\n${this.reason}`
  }
}

/** More operations than this are an effect that never ends. */
const mostOperations = 100_000

/** Interrupts its target at one operation, and is otherwise the scheduler that it was given. */
class InterruptingScheduler implements Scheduler.Scheduler {
  target: Fiber.Fiber<unknown, unknown> | undefined = undefined
  operations = 0
  private readonly base: Scheduler.Scheduler
  private readonly at: number
  private readonly when: "before" | "after"

  constructor(base: Scheduler.Scheduler, at: number, when: "before" | "after") {
    this.base = base
    this.at = at
    this.when = when
  }

  get executionMode(): "sync" | "async" {
    return this.base.executionMode
  }

  get reached(): boolean {
    return this.operations >= this.at
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.base.makeDispatcher()
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    if (fiber === this.target && ++this.operations === this.at) {
      if (this.when === "before") {
        fiber.interruptUnsafe()
        return true
      }
      this.base.makeDispatcher().scheduleTask(() => fiber.interruptUnsafe(), 0)
    }
    return this.base.shouldYield(fiber)
  }
}

/**
 * Sweeps the effect and checks the invariant after every run; returns the number of operations at which it was interrupted.
 * With `setup` each run has a state of its own, made outside of what is interrupted and closed after the check. Dies with
 * `InvariantBroken`, which names the operation.
 */
export function everyInterruptionPoint<A, E, R, X, E2, R2>(
  effect: Effect.Effect<A, E, R>,
  invariant: (exit: Exit.Exit<A, E>) => Effect.Effect<X, E2, R2>
): Effect.Effect<number, never, Exclude<R | R2, Scope.Scope>>
export function everyInterruptionPoint<S, E0, R0, A, E, R, X, E2, R2>(
  setup: Effect.Effect<S, E0, R0>,
  effect: (state: S) => Effect.Effect<A, E, R>,
  invariant: (state: S, exit: Exit.Exit<A, E>) => Effect.Effect<X, E2, R2>
): Effect.Effect<number, E0, Exclude<R0 | R | R2, Scope.Scope>>
export function everyInterruptionPoint<S, E0, R, A, E, X>(
  ...args:
    | [Effect.Effect<A, E, R>, (exit: Exit.Exit<A, E>) => Effect.Effect<X, unknown, R>]
    | [
        Effect.Effect<S, E0, R>,
        (state: S) => Effect.Effect<A, E, R>,
        (state: S, exit: Exit.Exit<A, E>) => Effect.Effect<X, unknown, R>
      ]
): Effect.Effect<number, E0, Exclude<R, Scope.Scope>> {
  if (args.length === 3) return sweep(args[0], args[1], args[2])
  const [effect, invariant] = args
  return sweep(
    Effect.void,
    () => effect,
    (_, exit) => invariant(exit)
  )
}

const sweep = Effect.fnUntraced(function* <S, E0, R0, A, E, R, X, E2, R2>(
  setup: Effect.Effect<S, E0, R0>,
  effect: (state: S) => Effect.Effect<A, E, R>,
  invariant: (state: S, exit: Exit.Exit<A, E>) => Effect.Effect<X, E2, R2>
) {
  for (let operation = 1; operation < mostOperations; operation++) {
    const reached = yield* attempt(setup, effect, invariant, operation, "before")
    if (!reached) return operation - 1
    yield* attempt(setup, effect, invariant, operation, "after")
  }
  return yield* Effect.die(
    new Error(`everyInterruptionPoint: the effect does not end within ${mostOperations} operations`)
  )
})

/** One run; tells whether it came as far as the operation. */
const attempt = <S, E0, R0, A, E, R, X, E2, R2>(
  setup: Effect.Effect<S, E0, R0>,
  effect: (state: S) => Effect.Effect<A, E, R>,
  invariant: (state: S, exit: Exit.Exit<A, E>) => Effect.Effect<X, E2, R2>,
  operation: number,
  when: "before" | "after"
): Effect.Effect<boolean, E0, Exclude<R0 | R | R2, Scope.Scope>> =>
  Effect.scoped(
    Effect.gen(function* () {
      const state = yield* setup
      const scheduler = new InterruptingScheduler(yield* Scheduler.Scheduler, operation, when)
      const swept = Effect.withFiber((fiber) => {
        scheduler.target = fiber
        return effect(state)
      })
      const fiber = yield* Effect.forkChild(Effect.provideService(swept, Scheduler.Scheduler, scheduler))
      const exit = yield* Fiber.await(fiber)
      // What the run did ends here; the check is not interrupted any more.
      const reached = scheduler.reached
      scheduler.target = undefined
      yield* invariant(state, exit).pipe(
        Effect.catchCause((cause) =>
          Effect.die(new InvariantBroken({ operation, when: reached ? when : "after", reason: Cause.pretty(cause) }))
        )
      )
      return reached
    })
  )
