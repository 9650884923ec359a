/**
 * What becomes of a message that was not handled: tried again, set aside, or let go.
 */
import type * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"
import type { Envelope } from "./Envelope.ts"

/** A decision about one message; made by {@link retry}, {@link delay}, {@link deadLetter} and {@link drop}. */
export type Decision =
  | { readonly _tag: "Retry"; readonly schedule: Schedule.Schedule<unknown, number> }
  | { readonly _tag: "Delay"; readonly duration: Duration.Input }
  | { readonly _tag: "DeadLetter" }
  | { readonly _tag: "Drop"; readonly reason: string }

/**
 * Again, when the schedule says so; a dead letter when it has ended or `maxAttempts` is reached.
 *
 * The schedule is replayed from the attempt count in the envelope, so it survives restarts; its input is the attempt, from 1.
 * `Schedule.recurs(2)` is three attempts. One that looks at the time passed counts from the first failure. A jittered one
 * need not repeat its delays.
 */
export const retry = (schedule: Schedule.Schedule<unknown, number>): Decision => ({ _tag: "Retry", schedule })

/** The usual schedule for {@link retry}: delays that double from `first` up to `most`, without an end. */
export const backoff = (first: Duration.Input, most: Duration.Input): Schedule.Schedule<Duration.Duration> =>
  Schedule.min([Schedule.exponential(first), Schedule.spaced(most)])

/** Again after this time, up to `maxAttempts`: for errors that say when to come back. */
export const delay = (duration: Duration.Input): Decision => ({ _tag: "Delay", duration })

/** Set aside with its error and history; see `DeadLetters`. */
export const deadLetter: Decision = { _tag: "DeadLetter" }

/** Acknowledged without having been handled. It is counted and logged with the reason. */
export const drop = (reason: string): Decision => ({ _tag: "Drop", reason })

/** A decision, or how to take it from the error. */
export type Decide<E> = Decision | ((error: E, message: Envelope) => Decision)

type Tagged = { readonly _tag: string }

/** One decision for every error: by tag where all errors have one, else by a function. */
export type OnError<E> = [E] extends [Tagged]
  ? string extends E["_tag"]
    ? (error: E, message: Envelope) => Decision
    : { readonly [Tag in E["_tag"]]: Decide<Extract<E, { readonly _tag: Tag }>> }
  : (error: E, message: Envelope) => Decision

/**
 * Stands for the error type while TypeScript has not looked at the handler yet: arguments that need no context are checked
 * first, and `onError` must not be judged then.
 */
export interface Unset {
  readonly "~millrace/Unset": never
}

/** `onError` is required exactly when the handler can fail. */
export type OnErrorOption<E> = [E] extends [never]
  ? Record<never, never>
  : unknown extends E
    ? { readonly onError: (error: E, message: Envelope) => Decision }
    : [E] extends [Unset]
      ? { readonly onError?: unknown }
      : { readonly onError: OnError<E> }
