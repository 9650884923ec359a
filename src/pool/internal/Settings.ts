/**
 * The options of a pool: one schema says what is allowed and how a wrong value is answered.
 */

import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { format } from "effect/Formatter"
import * as Schema from "effect/Schema"
import type { Entry } from "../../registry/Registry.ts"
import { toMillis } from "../Durations.ts"
import { InvalidOption } from "../PoolError.ts"
import type { ShutdownReport } from "../ShutdownReport.ts"

/** What a full backlog does to a new task. */
export type OnFull = "suspend" | "reject" | "dropNewest" | "dropOldest"
/** What the failure of a task does to the tasks of the same key behind it. */
export type OnKeyFailure = "continue" | "park" | "stop"
/** What happens when a task waits for something that waits for it. */
export type OnDeadlock = "die" | "inline" | "lend"

/** Checked options with all defaults filled in; times in milliseconds. */
export interface Settings {
  readonly name: string
  readonly concurrency: number
  readonly capacity: number
  readonly capacityPerKey: number
  readonly onFull: OnFull
  readonly onKeyFailure: OnKeyFailure
  readonly onDeadlock: OnDeadlock
  readonly rateLimit: { readonly limit: number; readonly interval: number } | undefined
  readonly shutdownDeadline: number
  readonly shutdownGrace: number
  readonly onShutdown: ((report: ShutdownReport) => Effect.Effect<unknown>) | undefined
  readonly owner: Owner | undefined
}

/** What a pool is a part of: it logs a report of its own, and is in the registry in place of the pool, whose entry it is handed. */
export type Owner = (entry: Entry) => void

/** The defaults; every one of them is finite. */
export const defaults = {
  capacity: 1024,
  onFull: "suspend",
  onKeyFailure: "continue",
  onDeadlock: "die",
  shutdownDeadline: Duration.seconds(30),
  shutdownGrace: Duration.seconds(5)
} as const

const whole = (least: number, meaning: string) =>
  Schema.Number.check(
    Schema.makeFilter((n) =>
      Number.isInteger(n) && n >= least
        ? undefined
        : `must be a whole number of at least ${least} (${meaning}), got ${format(n)}`
    )
  )

const span = (meaning: string, least: "zero" | "more than zero") =>
  Schema.Unknown.check(
    Schema.makeFilter((input) => {
      const millis = toMillis(input)
      return millis !== undefined && (least === "zero" ? millis >= 0 : millis > 0 && Number.isFinite(millis))
        ? undefined
        : `must be a duration of ${least === "zero" ? "zero or more" : least} (${meaning}), such as "30 seconds"; got ${format(input)}`
    })
  )

const choice = <const L extends ReadonlyArray<string>>(...allowed: L) =>
  Schema.Unknown.check(
    Schema.makeFilter((value) =>
      typeof value === "string" && allowed.includes(value)
        ? undefined
        : `must be one of ${allowed.map((name) => `"${name}"`).join(", ")}, got ${format(value)}`
    )
  )

const effectful = Schema.Unknown.check(
  Schema.makeFilter((value) => (typeof value === "function" ? undefined : "must be a function that returns an Effect"))
)

const PoolOptions = Schema.Struct({
  name: Schema.String.check(
    Schema.makeFilter((name) => (name.trim().length > 0 ? undefined : "must not be empty: reports and dumps show it"))
  ),
  concurrency: whole(1, "slots, each of which runs one task"),
  capacity: Schema.optional(whole(0, "tasks that may wait; 0 hands over to an idle slot only")),
  capacityPerKey: Schema.optional(whole(1, "tasks of one key that may wait")),
  onFull: Schema.optional(choice("suspend", "reject", "dropNewest", "dropOldest")),
  onKeyFailure: Schema.optional(choice("continue", "park", "stop")),
  onDeadlock: Schema.optional(choice("die", "inline", "lend")),
  rateLimit: Schema.optional(
    Schema.Struct({ limit: whole(1, "starts per interval"), interval: span("the interval", "more than zero") })
  ),
  shutdownDeadline: Schema.optional(span("time to drain", "zero")),
  shutdownGrace: Schema.optional(span("time for interrupted tasks to end", "zero")),
  onShutdown: Schema.optional(effectful)
})

const decode = Schema.decodeUnknownExit(PoolOptions)

/** Options as a caller writes them, whatever their types say: JavaScript callers and configuration files come here too. */
export interface Unchecked {
  readonly name: string
  readonly concurrency: number
  readonly capacity?: number | undefined
  readonly capacityPerKey?: number | undefined
  readonly onFull?: OnFull | undefined
  readonly onKeyFailure?: OnKeyFailure | undefined
  readonly onDeadlock?: OnDeadlock | undefined
  readonly rateLimit?: { readonly limit: number; readonly interval: Duration.Input } | undefined
  readonly shutdownDeadline?: Duration.Input | undefined
  readonly shutdownGrace?: Duration.Input | undefined
  readonly onShutdown?: ((report: ShutdownReport) => Effect.Effect<unknown>) | undefined
  readonly owner?: Owner
}

/** Checks the options of a pool; a wrong one is a defect, with a sentence for each. */
export const check = (operation: string, options: Unchecked): Effect.Effect<Settings> => {
  const decoded = decode(options, { errors: "all" })
  if (Exit.isFailure(decoded)) {
    const problem = String(Cause.squash(decoded.cause)).replace(/^SchemaError\(([\s\S]*)\)$/, "$1")
    return Effect.die(new InvalidOption({ operation, problem }))
  }
  // The durations have just been checked, so each has a value.
  const millis = (input: Duration.Input) => toMillis(input) ?? 0
  return Effect.succeed({
    name: options.name,
    concurrency: options.concurrency,
    capacity: options.capacity ?? defaults.capacity,
    capacityPerKey: options.capacityPerKey ?? Number.POSITIVE_INFINITY,
    onFull: options.onFull ?? defaults.onFull,
    onKeyFailure: options.onKeyFailure ?? defaults.onKeyFailure,
    onDeadlock: options.onDeadlock ?? defaults.onDeadlock,
    rateLimit: options.rateLimit && { limit: options.rateLimit.limit, interval: millis(options.rateLimit.interval) },
    shutdownDeadline: millis(options.shutdownDeadline ?? defaults.shutdownDeadline),
    shutdownGrace: millis(options.shutdownGrace ?? defaults.shutdownGrace),
    onShutdown: options.onShutdown,
    owner: options.owner
  })
}
