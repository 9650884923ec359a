/**
 * Supervised fire-and-forget: short, failure-tolerant work whose result nobody waits for, such as tracking, notifications or
 * warming a cache.
 *
 * **When to use**
 *
 * Use it where a request is answered and something small is done afterwards. What is in flight is lost when the process
 * dies; work that must not be lost belongs to a broker. Work that somebody waits for, or that must queue, belongs to a
 * `WorkerPool`.
 *
 * **Details**
 *
 * - At most `maxInFlight` run at a time, without a queue in front. When that is reached, `onFull` decides: `suspend`
 *   (default) lets the caller wait, `reject` fails with `PoolFull`, `dropNewest` drops the new work.
 * - Work that can fail needs `onFailure`, or it does not compile. A defect is reported once, through Effect's error reporting
 *   or its log.
 * - Closing the scope drains it until a deadline, like any pool, and logs the same report.
 *
 * **Example** (Answering "queued" and going on)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Background } from "millrace"
 *
 * const tracked: Array<string> = []
 * const track = (event: string) => Effect.delay(Effect.sync(() => tracked.push(event)), "5 millis")
 *
 * const handler = Effect.gen(function*() {
 *   yield* Background.fork(track("order placed"), { name: "track" })
 *   return "queued"
 * })
 *
 * // Closing the layer waits for what is in flight.
 * const answer = await Effect.runPromise(Effect.provide(handler, Background.layer()))
 * answer // => "queued"
 * tracked // => ["order placed"]
 * ```
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type { Accounting } from "./Accounting.ts"
import { calledFrom, callSite } from "./internal/CallSite.ts"
import type { PoolClosed } from "./PoolError.ts"
import { InvalidOption } from "./PoolError.ts"
import type { ShutdownReport } from "./ShutdownReport.ts"
import type { Ended, Refused } from "./WorkerPool.ts"
import { open } from "./WorkerPool.ts"

/** What is done with work that comes while `maxInFlight` are in flight. */
export type OnFull = "suspend" | "reject" | "dropNewest"

/** Options of one piece of work. */
export interface ForkOptions {
  /** Shown in reports and dumps. Default: the supervisor's name and a number. */
  readonly name?: string | undefined
}

/** Hears of a failure, and of what the supervisor dropped or had to stop. */
type OnFailure<P extends OnFull, E, R> = (
  cause: Cause.Cause<E | Ended<P, "continue", undefined, undefined>>
) => Effect.Effect<unknown, never, R>

/** A supervisor of background work. `P` decides which errors `fork` has. */
export interface Supervisor<out P extends OnFull = "suspend"> {
  readonly name: string
  /** Starts the work and returns. It cannot fail, or `onFailure` hears of it. */
  readonly fork: {
    <A, R, R2 = never>(
      effect: Effect.Effect<A, never, R>,
      options?: ForkOptions & { readonly onFailure?: OnFailure<P, never, R2> }
    ): Effect.Effect<void, Refused<P>, Exclude<R | R2, Scope.Scope>>
    <A, E, R, R2 = never>(
      effect: Effect.Effect<A, E, R>,
      options: ForkOptions & { readonly onFailure: OnFailure<P, E, R2> }
    ): Effect.Effect<void, Refused<P>, Exclude<R | R2, Scope.Scope>>
  }
  readonly accounting: Effect.Effect<Accounting>
  /** Waits until nothing is in flight. Admission stays open. */
  readonly awaitIdle: Effect.Effect<void>
  /** See `WorkerPool.shutdown`. */
  readonly shutdown: (options?: { readonly deadline?: Duration.Input | undefined }) => Effect.Effect<ShutdownReport>
}

/** Options of a supervisor. A wrong one is a defect (`InvalidOption`) that says what is allowed. */
export interface Options<out P extends OnFull = OnFull> {
  /** Default "background". */
  readonly name?: string | undefined
  /** Pieces of work that run at the same time. A whole number from 1. Default 1024. */
  readonly maxInFlight?: number | undefined
  /** Default `suspend`. */
  readonly onFull?: P | undefined
  /** How long closing lets work end by itself. Default 30 seconds. */
  readonly shutdownDeadline?: Duration.Input | undefined
  /** How long interrupted work may take to end before it is abandoned. Default 5 seconds. */
  readonly shutdownGrace?: Duration.Input | undefined
  /** Is handed the report when it has closed; waited for no longer than `shutdownGrace`. */
  readonly onShutdown?: ((report: ShutdownReport) => Effect.Effect<unknown>) | undefined
}

/** Opens a supervisor that drains and closes with the scope. */
export const make = <const P extends OnFull = "suspend">(
  options: Options<P> = {}
): Effect.Effect<Supervisor<P>, never, Scope.Scope> => {
  const { maxInFlight = 1024, name = "background", ...rest } = options
  if (!Number.isInteger(maxInFlight) || maxInFlight < 1) {
    const problem = `maxInFlight must be a whole number of at least 1, got ${format(maxInFlight)}`
    return Effect.die(new InvalidOption({ operation: "Background.make", problem }))
  }
  return open<P, "continue">("Background", "Background.make", {
    ...rest,
    name,
    concurrency: maxInFlight,
    capacity: 0
  })
}

/** What the supervisor of an app may do when `maxInFlight` is reached: both leave `fork` with the same errors. */
type AppPolicy = "suspend" | "dropNewest"

/** The supervisor of the app, for {@link fork}. */
export class Background extends Context.Service<Background, Supervisor<AppPolicy>>()("millrace/Background") {}

/** Opens the supervisor of the app. When `maxInFlight` is reached its callers wait, or with `dropNewest` the work is dropped. */
export const layer = (options?: Options<AppPolicy>): Layer.Layer<Background> =>
  Layer.effect(Background, make<AppPolicy>(options))

/**
 * Starts work under the supervisor of the app and returns. The work cannot fail, or `onFailure` hears of it.
 *
 * Fails with `PoolClosed` once the supervisor is closing.
 */
export function fork<A, R, R2 = never>(
  effect: Effect.Effect<A, never, R>,
  options?: ForkOptions & { readonly onFailure?: OnFailure<AppPolicy, never, R2> }
): Effect.Effect<void, PoolClosed, Exclude<R | R2, Scope.Scope> | Background>
export function fork<A, E, R, R2 = never>(
  effect: Effect.Effect<A, E, R>,
  options: ForkOptions & { readonly onFailure: OnFailure<AppPolicy, E, R2> }
): Effect.Effect<void, PoolClosed, Exclude<R | R2, Scope.Scope> | Background>
export function fork(
  effect: Effect.Effect<unknown, unknown, unknown>,
  options?: ForkOptions
): Effect.Effect<void, PoolClosed, unknown> {
  const site = callSite()
  return Background.use((supervisor) =>
    // The signatures above have checked that what can fail has its `onFailure`, and say what is required.
    calledFrom(site, () => supervisor.fork(effect as Effect.Effect<unknown>, options))
  )
}
