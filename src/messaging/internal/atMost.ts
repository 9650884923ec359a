/** Steps of closing that must not keep a consumer from closing, whatever a driver does. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"

/**
 * Does it in a fiber of its own, and waits for it so many milliseconds at most. What cannot be interrupted by then goes on
 * alone; that is logged, and so is a failure.
 */
export const atMost = (millis: number, what: string, effect: Effect.Effect<unknown, unknown>): Effect.Effect<void> =>
  Effect.gen(function* () {
    const fiber = yield* Effect.forkDetach(effect, { startImmediately: true })
    const exit = yield* Effect.timeoutOption(Fiber.await(fiber), millis)
    if (Option.isNone(exit)) {
      fiber.interruptUnsafe()
      yield* Effect.logWarning(`${what} has not ended within ${millis} ms; it is not waited for any longer`)
    } else if (exit.value._tag === "Failure") yield* Effect.logWarning(`${what} has failed`, exit.value.cause)
  })
