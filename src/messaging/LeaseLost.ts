/**
 * The cause with which a handler is interrupted whose message is not its own any more: the lease ran out, a rebalance or a
 * closed channel took it away. Another consumer has it or will.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"

/** The message whose delivery was lost. */
export interface LeaseLost {
  readonly id: string
  readonly topic: string
  readonly group: string
  /** `expired`: it was not renewed in time. `taken`: the broker said that it is not ours. */
  readonly reason: "expired" | "taken"
}

/** The annotation on the cause of the interruption. */
export const LeaseLost: Context.Service<LeaseLost, LeaseLost> = Context.Service<LeaseLost>("millrace/LeaseLost")

/** The lost delivery that a cause tells of; `undefined` where it is about something else. */
export const leaseLostOf = (cause: Cause.Cause<unknown>): LeaseLost | undefined =>
  Context.getOrUndefined(Cause.annotations(cause), LeaseLost)

/** Whether a handler was interrupted because its message was lost: for `Effect.onExit` and the like. */
export const isLeaseLost = (cause: Cause.Cause<unknown>): boolean => leaseLostOf(cause) !== undefined
