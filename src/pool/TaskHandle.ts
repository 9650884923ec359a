/**
 * The handle of an accepted task: what `submit` returns.
 */
import type * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Option from "effect/Option"

/**
 * A task that a pool has accepted.
 *
 * It settles when, and only when, the task's outcome is recorded: when the task has really ended, finalizers included, or
 * when the pool gave it up. A failed handle that nobody reads is reported once, when it is collected or the pool closes.
 */
export interface TaskHandle<out A, out E = never> {
  /** The name of the pool and a number; unique where the names of the pools are. */
  readonly id: string
  /** The name given at submission, else the id. */
  readonly name: string
  /** Waits for the result; fails as the task failed. Interrupting it does not cancel the task. */
  readonly await: Effect.Effect<A, E>
  /** Waits for the result and returns it as an `Exit`. */
  readonly exit: Effect.Effect<Exit.Exit<A, E>>
  /** The result if there is one. */
  readonly poll: Effect.Effect<Option.Option<Exit.Exit<A, E>>>
  /** Takes the task out of the backlog, or interrupts it and waits until its finalizers have ended. */
  readonly cancel: Effect.Effect<void>
}
