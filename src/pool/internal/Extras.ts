/**
 * The options of one task: checked by hand, since this runs for every submission that has any.
 */
import type * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import { format } from "effect/Formatter"
import { toMillis } from "../Durations.ts"
import { InvalidOption } from "../PoolError.ts"
import type { Engine } from "./Engine.ts"
import type { AnyEffect, Extra } from "./Task.ts"

/** All that a submission may say of its task. */
export interface TaskOptions {
  readonly name?: string | undefined
  readonly key?: string | undefined
  readonly priority?: number | undefined
  readonly weight?: number | undefined
  readonly timeout?: Duration.Input | undefined
  readonly expiresIn?: Duration.Input | undefined
  /** The types of cause and effect were checked where the caller wrote it. */
  readonly onFailure?: ((cause: Cause.Cause<never>) => unknown) | undefined
}

const invalid = (operation: string, problem: string): never => {
  // Runs inside the submission's effect, where a throw is the defect that a wrong option shall be.
  throw new InvalidOption({ operation, problem })
}

const millis = (operation: string, option: string, input: Duration.Input | undefined): number | undefined => {
  if (input === undefined) return undefined
  const value = toMillis(input)
  // What never comes needs no timer, nor anybody who counts on it.
  if (value === Number.POSITIVE_INFINITY) return undefined
  return value ?? invalid(operation, `${option} must be a duration, such as "5 seconds"; got ${format(input)}`)
}

const isOptional = (value: unknown, type: "string" | "function"): boolean =>
  value === undefined || typeof value === type

/** What the engine keeps of the options; `undefined` where there is nothing to keep, which has to be fast. */
export const extras = (
  engine: Engine,
  operation: string,
  options: TaskOptions | undefined,
  site: string | undefined
): Extra | undefined =>
  options === undefined && !engine.registry.watched ? undefined : read(engine, operation, options, site)

const read = (engine: Engine, operation: string, options: TaskOptions | undefined, site: string | undefined): Extra => {
  const priority = options?.priority ?? 0
  const weight = options?.weight ?? 1
  if (!isOptional(options?.name, "string")) invalid(operation, `name must be a string, got ${format(options?.name)}`)
  if (!isOptional(options?.key, "string")) invalid(operation, `key must be a string, got ${format(options?.key)}`)
  if (!isOptional(options?.onFailure, "function")) {
    invalid(operation, "onFailure must be a function that returns an Effect")
  }
  if (!Number.isFinite(priority)) invalid(operation, `priority must be a finite number, got ${format(priority)}`)
  if (!Number.isInteger(weight) || weight < 1) {
    invalid(operation, `weight must be a whole number of at least 1, got ${format(weight)}`)
  }
  return {
    sequence: 0,
    name: options?.name,
    key: options?.key,
    priority,
    weight,
    timeout: millis(operation, "timeout", options?.timeout),
    expiresIn: millis(operation, "expiresIn", options?.expiresIn),
    // The caller's signature has checked it; the engine only runs it.
    onFailure: options?.onFailure as ((cause: Cause.Cause<unknown>) => AnyEffect) | undefined,
    submittedAt: engine.registry.watched ? engine.timers.now() : undefined,
    site: engine.registry.watched ? site : undefined,
    timer: undefined,
    lane: undefined
  }
}
