/** What a program gave as a decision, which may be anything where the types were not minded. */
import * as Schedule from "effect/Schedule"
import { toMillis } from "../../pool/Durations.ts"
import type { Decision } from "../Decision.ts"

/** Why a value is no decision; `undefined` where it is one. */
export const decisionProblem = (value: unknown): string | undefined => {
  const decision = typeof value === "object" && value !== null ? (value as Partial<Decision>) : {}
  switch (decision._tag) {
    case "DeadLetter":
    case "Drop":
      return undefined
    case "Retry":
      return Schedule.isSchedule(decision.schedule) ? undefined : "Consumer.retry was given no schedule"
    case "Delay": {
      const { duration } = decision
      return toMillis(duration) === undefined
        ? `Consumer.delay was given no duration, but ${String(duration)}`
        : undefined
    }
    default:
      return `it is no decision, but ${String(value)}; use Consumer.retry, delay, deadLetter or drop`
  }
}
