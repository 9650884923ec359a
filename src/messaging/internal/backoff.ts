/** The delays between tries of an operation that must succeed in the end: a settlement, a dead letter, a subscription. */
import * as Schedule from "effect/Schedule"

export const untilItWorks = Schedule.jittered(
  Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("10 seconds")])
)
