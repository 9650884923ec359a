/**
 * Runs an effect while the test clock advances by itself, for effects whose own end needs time: a scope that drains, a
 * shutdown with a deadline, a retry.
 *
 * **Example** (Closing a pool whose task sleeps)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { TestClock } from "effect/testing"
 * import { WorkerPool } from "millrace"
 * import { whileTimePasses } from "millrace/testing"
 *
 * const program = Effect.gen(function*() {
 *   const pool = yield* WorkerPool.make({ name: "slow", concurrency: 1 })
 *   yield* pool.submit(Effect.sleep("10 seconds"))
 *   return (yield* pool.drain).drained
 * })
 *
 * const test = whileTimePasses(Effect.scoped(program)).pipe(Effect.provide(TestClock.layer()))
 * await Effect.runPromise(test) // => 1
 * ```
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"

/** Advances the test clock by `step` (default 100 milliseconds) until the effect has ended; dies after `steps` of them. */
export const whileTimePasses = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  options?: { readonly step?: Duration.Input; readonly steps?: number }
): Effect.Effect<A, E, R> =>
  Effect.gen(function* () {
    const { step = "100 millis", steps = 100_000 } = options ?? {}
    const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
    for (let i = 0; i < steps && fiber.pollUnsafe() === undefined; i++) yield* TestClock.adjust(step)
    if (fiber.pollUnsafe() === undefined) {
      yield* Fiber.interrupt(fiber)
      return yield* Effect.die(
        new Error(`whileTimePasses: the effect has not ended after ${steps} steps of ${String(step)}`)
      )
    }
    return yield* Fiber.join(fiber)
  })
