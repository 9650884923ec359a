/**
 * The books of a pool: where every task that it accepted has gone.
 *
 * At every instant `accepted = queued + running + Σ outcomes`. What was refused or still waits to be accepted stands beside
 * the equation, since it was never in it.
 */

/** How an accepted task ended. Exactly one is recorded for each. */
export type Outcome =
  | "succeeded"
  | "failed"
  | "defected"
  | "interrupted"
  | "timedOut"
  | "expired"
  | "dropped"
  | "abandoned"

/** The outcomes, in the order in which a report names them. */
export const outcomes: ReadonlyArray<Outcome> = [
  "succeeded",
  "failed",
  "defected",
  "interrupted",
  "timedOut",
  "expired",
  "dropped",
  "abandoned"
]

/** The numbers of one pool at one instant, in tasks. */
export interface Accounting extends Readonly<Record<Outcome, number>> {
  readonly accepted: number
  readonly queued: number
  /** Tasks that hold a slot, those that are overrunning among them. */
  readonly running: number
  /** Running tasks that were cancelled or timed out and whose finalizers have not ended. */
  readonly overrunning: number
  /** Producers that wait for a place; their tasks are not accepted yet. */
  readonly blocked: number
  /** Submissions turned away because the backlog was full or the pool closed. */
  readonly refused: number
  /** Abandoned tasks that ended after all; their recorded outcome stays `abandoned`. */
  readonly lateEnds: number
}

/** Tasks whose outcome is recorded. */
export const settled = (accounting: Accounting): number =>
  outcomes.reduce((sum, outcome) => sum + accounting[outcome], 0)

/** Whether every accepted task is in exactly one place. */
export const isBalanced = (accounting: Accounting): boolean =>
  accounting.accepted === accounting.queued + accounting.running + settled(accounting)
