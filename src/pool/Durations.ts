/**
 * Durations as options give them.
 */
import * as Duration from "effect/Duration"
import { format } from "effect/Formatter"

/** Milliseconds; `undefined` for what is no duration. `NaN` is none, although Effect reads it as zero. */
export const toMillis = (input: unknown): number | undefined => {
  if (typeof input === "number" && Number.isNaN(input)) return undefined
  // What is no duration is answered with none, whatever its type.
  const duration = Duration.fromInput(input as Duration.Input)
  return duration._tag === "Some" ? Duration.toMillis(duration.value) : undefined
}

/** What is wrong with an option that is no duration. */
export const durationProblem = (option: string, input: unknown): string =>
  `${option} must be a duration of zero or more, such as "5 seconds"; got ${format(input)}`
