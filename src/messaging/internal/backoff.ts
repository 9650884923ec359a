/** Operations of a broker that must succeed in the end: a settlement, a dead letter, a subscription. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"

/** The delays between tries. */
const untilItWorks = Schedule.jittered(Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("10 seconds")]))

/**
 * Does it again until it works. A driver that dies is a bug of the driver, and no reason for a consumer to stop without a
 * word: it counts as a failure.
 */
export const insist = <A>(
  operation: () => Effect.Effect<A, unknown>,
  onFailure: (error: unknown) => Effect.Effect<void>
): Effect.Effect<A> =>
  Effect.suspend(operation).pipe(
    Effect.catchDefect((defect) => Effect.fail(defect)),
    Effect.tapError(onFailure),
    Effect.retry(untilItWorks),
    // The schedule never ends.
    Effect.orDie
  )
