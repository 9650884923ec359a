/**
 * The options of a consumer, checked, with their defaults filled in; times in milliseconds.
 */
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import { durationProblem, toMillis } from "../../pool/Durations.ts"
import { InvalidOption } from "../../pool/WorkerPool.ts"
import type { AbilityOptions, BatchOptions, ConsumerOptions } from "../ConsumerOptions.ts"
import type { Decision } from "../Decision.ts"
import { backoff, retry } from "../Decision.ts"
import { decisionProblem } from "./decisionProblem.ts"

export interface ConsumerSettings {
  readonly group: string
  readonly concurrency: number
  readonly prefetch: number
  readonly prefetchPerKey: number
  readonly prefetchBytes: number
  readonly maxAttempts: number
  readonly maxDeliveries: number
  readonly timeout: number | undefined
  readonly onUndecodable: "deadLetter" | "stop"
  readonly onUnknownVersion: "release" | "deadLetter"
  readonly unknownVersionDelay: number
  readonly lease: number
  readonly rateLimit: { readonly limit: number; readonly interval: number } | undefined
  readonly shutdownDeadline: number
  readonly shutdownGrace: number
  readonly stallAfter: number
  readonly order: "key" | "none"
  readonly replay: "earliest" | Date | undefined
  readonly batch: { readonly size: number; readonly linger: number } | undefined
}

/** What is done with a defect or a timeout where nothing else is said. */
export const retryWithBackoff: Decision = retry(backoff("1 second", "5 minutes"))

const isDecision = (value: object): boolean => "_tag" in value && decisionProblem(value) === undefined

type Unchecked = ConsumerOptions & { readonly onError?: unknown } & AbilityOptions<unknown, unknown> &
  Partial<BatchOptions>

/** Checks the options by hand, since they come with functions and types that a schema would only pass on. */
export const checkConsumer = (given: Unchecked, isBatch: boolean): Effect.Effect<ConsumerSettings> => {
  // JavaScript programs may give anything.
  const options: Partial<Unchecked> = typeof given === "object" && given !== null ? given : {}
  const problems: Array<string> = []
  const whole = (name: keyof Unchecked, least: number, meaning: string, fallback: number): number => {
    const value = options[name] ?? fallback
    if (Number.isInteger(value) && (value as number) >= least) return value as number
    problems.push(`${name} must be a whole number of at least ${least} (${meaning}), got ${format(options[name])}`)
    return fallback
  }
  const span = (name: string, input: unknown, fallback: number, moreThanZero = false): number => {
    if (input === undefined) return fallback
    const millis = toMillis(input)
    if (millis !== undefined && (moreThanZero ? millis > 0 : millis >= 0)) return millis
    problems.push(
      moreThanZero ? `${durationProblem(name, input)}; it must be more than zero` : durationProblem(name, input)
    )
    return fallback
  }
  const choice = <const C extends string>(name: keyof Unchecked, allowed: ReadonlyArray<C>, fallback: C): C => {
    const value = options[name] ?? fallback
    const found = allowed.find((one) => one === value)
    if (found === undefined) {
      problems.push(`${name} must be one of ${allowed.map((one) => `"${one}"`).join(", ")}, got ${format(value)}`)
    }
    return found ?? fallback
  }
  const decision = (name: string, value: unknown) => {
    if (value === undefined || typeof value === "function") return
    const problem = decisionProblem(value)
    if (problem !== undefined) problems.push(`${name} must be a decision or a function that answers one: ${problem}`)
  }
  const { group = "", onDefect, onError, onTimeout, order, rateLimit, replay } = options
  decision("onDefect", onDefect)
  decision("onTimeout", onTimeout)
  if (typeof onError === "object" && onError !== null && !isDecision(onError)) {
    for (const [tag, value] of Object.entries(onError)) decision(`onError.${tag}`, value)
  } else if (onError !== undefined && typeof onError !== "function") {
    problems.push("onError must be a function of the error, or have a decision for each tag of it")
  }
  if (typeof group !== "string" || group.trim() === "") problems.push("group must be a name that is not empty")
  const concurrency = whole("concurrency", 1, "handlers at a time", 16)
  // Neither has a default that would be allowed: a batch without a size would never be full.
  const size = isBatch ? whole("size", 1, "messages in a batch", 0) : 0
  if (isBatch && options.linger === undefined) problems.push(durationProblem("linger", undefined))
  const linger = isBatch ? span("linger", options.linger, 0) : 0
  if (isBatch && order !== undefined) problems.push("order must be left out: batches have no order by key")
  const least = Math.max(64, 2 * concurrency, size * (concurrency + 1))
  const maxAttempts = whole("maxAttempts", 1, "attempts before a message becomes a dead letter", 20)
  if (rateLimit !== undefined && !(Number.isInteger(rateLimit?.limit) && rateLimit.limit >= 1)) {
    problems.push(`rateLimit.limit must be a whole number of at least 1, got ${format(rateLimit?.limit)}`)
  }
  if (order !== undefined && order !== "key") problems.push(`order must be "key" or left out, got ${format(order)}`)
  const isDate = replay instanceof Date && !Number.isNaN(replay.getTime())
  const isReplay = replay === undefined || replay === "earliest" || isDate
  if (!isReplay) problems.push(`replay must be "earliest" or a Date, got ${format(replay)}`)
  const prefetch = whole("prefetch", 1, "messages held, running ones included", least)
  if (prefetch < size) problems.push(`prefetch must be at least the size of a batch (${size}), got ${prefetch}`)
  const settings: ConsumerSettings = {
    group,
    concurrency,
    prefetch,
    prefetchPerKey: whole("prefetchPerKey", 1, "messages of one key held", Math.ceil(prefetch / 8)),
    prefetchBytes: whole("prefetchBytes", 1, "bytes of payload held", 16 * 1024 * 1024),
    maxAttempts,
    maxDeliveries: whole(
      "maxDeliveries",
      1,
      "deliveries before a message counts as what kills the process",
      maxAttempts + 20
    ),
    timeout: options.timeout === undefined ? undefined : span("timeout", options.timeout, 0, true),
    onUndecodable: choice("onUndecodable", ["deadLetter", "stop"], "deadLetter"),
    onUnknownVersion: choice("onUnknownVersion", ["release", "deadLetter"], "release"),
    unknownVersionDelay: span("unknownVersionDelay", options.unknownVersionDelay, 10_000),
    lease: span("lease", options.lease, 30_000, true),
    rateLimit: rateLimit && {
      limit: rateLimit.limit,
      interval: span("rateLimit.interval", rateLimit.interval, 1000, true)
    },
    shutdownDeadline: span("shutdownDeadline", options.shutdownDeadline, 30_000),
    shutdownGrace: span("shutdownGrace", options.shutdownGrace, 5_000),
    stallAfter: span("stallAfter", options.stallAfter, 30_000, true),
    order: order === "key" ? "key" : "none",
    // Checked above.
    replay: isReplay ? (replay as "earliest" | Date | undefined) : undefined,
    batch: isBatch ? { size, linger } : undefined
  }
  return problems.length === 0
    ? Effect.succeed(settings)
    : Effect.die(new InvalidOption({ operation: "Consumer", problem: problems.join("\n") }))
}
