/**
 * Reads the options of a driver's layer and gathers what is wrong with them, so that one defect says it all. JavaScript callers
 * and configuration come here too, whatever the types say.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import { toMillis } from "../pool/Durations.ts"
import { InvalidOption } from "../pool/PoolError.ts"

/** The longest that a timer takes. */
const mostMillis = 2 ** 31 - 1

export class OptionReader {
  /** What is wrong, a sentence each. */
  readonly problems: Array<string> = []

  /** A whole number. */
  whole(
    name: string,
    value: number | undefined,
    fallback: number,
    { least = 1, most = Number.MAX_SAFE_INTEGER }: { readonly least?: number; readonly most?: number } = {}
  ): number {
    if (value === undefined) return fallback
    if (Number.isSafeInteger(value) && value >= least && value <= most) return value
    const upTo = most === Number.MAX_SAFE_INTEGER ? "" : ` to ${most}`
    this.problems.push(`${name} must be a whole number from ${least}${upTo}, got ${format(value)}`)
    return fallback
  }

  /** A duration, in milliseconds. */
  span(name: string, value: Duration.Input | undefined, fallback: number, least = 1): number {
    if (value === undefined) return fallback
    const millis = toMillis(value)
    if (millis !== undefined && millis >= least && millis <= mostMillis) return millis
    this.problems.push(
      `${name} must be a duration of at least ${least} ms and at most 24 days, such as "5 seconds", got ${format(value)}`
    )
    return fallback
  }

  /** A list; `read` answers nothing for what does not belong into it, which should be `what`. */
  list<A, B>(
    name: string,
    value: ReadonlyArray<A> | undefined,
    what: string,
    read: (one: A) => B | undefined
  ): Array<B> {
    if (value === undefined) return []
    const found: Array<B> = []
    const wrong: Array<unknown> = Array.isArray(value) ? [] : [value]
    for (const one of Array.isArray(value) ? value : []) {
      const result = read(one)
      if (result === undefined) wrong.push(one)
      else found.push(result)
    }
    for (const one of wrong) this.problems.push(`${name} must be a list of ${what}, got ${format(one)}`)
    return found
  }

  /** One of several kinds, of which `isRight` says that it is. */
  kind<A>(name: string, value: A, what: string, isRight: (value: unknown) => boolean): A | undefined {
    if (value === undefined || isRight(value)) return value
    this.problems.push(`${name} must be ${what}, got ${format(value)}`)
    return undefined
  }

  /** The settings, or the defect. */
  result<S>(operation: string, settings: S): Effect.Effect<S> {
    return this.problems.length === 0
      ? Effect.succeed(settings)
      : Effect.die(new InvalidOption({ operation, problem: this.problems.join("\n") }))
  }
}

/** The port that a text of digits says; `undefined` where it is none. */
export const portOf = (digits: string | undefined): number | undefined => {
  const port = Number(digits)
  return port >= 1 && port <= 65_535 ? port : undefined
}

export const isObject = (value: unknown): boolean =>
  typeof value === "object" && value !== null && !Array.isArray(value)
