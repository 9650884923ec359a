/**
 * From how a handler ended to what becomes of its message.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import { toMillis } from "../../pool/Durations.ts"
import type { ConsumerOptions } from "../ConsumerOptions.ts"
import type { Decision } from "../Decision.ts"
import type { DeathReason, Envelope, FailedAttempt, History } from "../Envelope.ts"
import { thisProcess } from "../Source.ts"
import { shorten } from "../shortened.ts"
import type { Undecodable, UnknownVersion } from "../TopicError.ts"
import type { ConsumerSettings } from "./ConsumerSettings.ts"
import { retryWithBackoff } from "./ConsumerSettings.ts"
import { decisionProblem } from "./decisionProblem.ts"

/** How one attempt at a message ended. */
export type Attempt =
  | { readonly _tag: "Handled"; readonly exit: Exit.Exit<unknown, unknown> }
  | { readonly _tag: "TimedOut" }
  | { readonly _tag: "NotDecoded"; readonly error: Undecodable | UnknownVersion }
  | { readonly _tag: "Crashed"; readonly deliveries: number }

/** What becomes of its message. */
export type Verdict =
  | { readonly _tag: "Acknowledge" }
  | { readonly _tag: "Drop"; readonly reason: string }
  /** `countsAttempt` is false where it is given back as it was, only later. */
  | { readonly _tag: "Retry"; readonly delay: number; readonly envelope: Envelope; readonly countsAttempt: boolean }
  | { readonly _tag: "DeadLetter"; readonly envelope: Envelope }
  | { readonly _tag: "Stop"; readonly error: Undecodable }

/** The decisions of a consumer, of whatever error type. */
export interface Decisions {
  readonly onError?: Readonly<Record<string, Decision | OnAnyError>> | OnAnyError | undefined
  readonly onDefect?: ConsumerOptions["onDefect"]
  readonly onTimeout?: ConsumerOptions["onTimeout"]
  readonly onDeadLetter?: ConsumerOptions["onDeadLetter"]
}
type OnAnyError = (error: never, message: Envelope) => Decision

/** A hundred years in milliseconds: what is to come later never comes, and few brokers can count so far. */
const longestDelay = 100 * 365 * 24 * 3_600_000

/** Longest history in bytes of its JSON; the oldest attempts are left out. */
const mostHistory = 8_000
/** Longest text of one failed attempt in bytes. */
const mostText = 1_000
/** Longest cause of a dead letter in bytes. */
const mostCause = 4_000

const acknowledge: Verdict = { _tag: "Acknowledge" }

export const judge = (
  settings: ConsumerSettings,
  decisions: Decisions,
  envelope: Envelope,
  attempt: Attempt
): Effect.Effect<Verdict> => {
  switch (attempt._tag) {
    case "Handled": {
      if (attempt.exit._tag === "Success") return Effect.succeed(acknowledge)
      return judgeFailure(settings, decisions, envelope, attempt.exit.cause)
    }
    case "TimedOut": {
      const problem = `the handler ran longer than ${settings.timeout} ms`
      return carryOut(
        settings,
        envelope,
        { tag: "Timeout", text: problem, reason: "timeout" },
        safely("onTimeout", decisions.onTimeout, (onTimeout) =>
          typeof onTimeout === "function" ? onTimeout(envelope) : onTimeout
        )
      )
    }
    case "NotDecoded": {
      const { error } = attempt
      if (error._tag === "UnknownVersion") {
        return settings.onUnknownVersion === "release"
          ? Effect.succeed({ _tag: "Retry", delay: settings.unknownVersionDelay, envelope, countsAttempt: false })
          : deadLetter(envelope, { tag: error._tag, text: error.message, reason: "unknownVersion" })
      }
      return settings.onUndecodable === "stop"
        ? Effect.succeed({ _tag: "Stop", error })
        : deadLetter(envelope, { tag: error._tag, text: error.message, reason: "undecodable" })
    }
    case "Crashed":
      return deadLetter(envelope, {
        tag: "Crashed",
        text: `it was delivered ${attempt.deliveries} times and never settled: it may be what kills the process`,
        reason: "crashed"
      })
  }
}

/** What went wrong, as the history and the dead letter tell it. */
interface Failure {
  readonly tag: string
  readonly text: string
  /** What the dead letter says where it was not decided but came to it. */
  readonly reason: DeathReason
}

const judgeFailure = (
  settings: ConsumerSettings,
  decisions: Decisions,
  envelope: Envelope,
  cause: Cause.Cause<unknown>
): Effect.Effect<Verdict> => {
  const failed = cause.reasons.find(Cause.isFailReason)
  // A defect beside a failure is the worse news.
  if (failed === undefined || Cause.hasDies(cause)) return judgeDefect(settings, decisions, envelope, cause)
  const error = failed.error
  const chosen = safely("onError", decisions.onError, (onError) => {
    const decide = typeof onError === "function" ? onError : onError[tagOf(error) ?? ""]
    // The type of the option has matched the error with its decision.
    return typeof decide === "function" ? decide(error as never, envelope) : decide
  })
  // Both are told: what onError made of the error, and the error.
  if (chosen._tag === "Died") {
    return judgeDefect(settings, decisions, envelope, Cause.combine(Cause.die(chosen.defect), cause))
  }
  return carryOut(
    settings,
    envelope,
    { tag: tagOf(error) ?? "Error", text: textOf(error, cause), reason: "exhausted" },
    chosen
  )
}

/** The defects and interruptions of a cause; `onDefect` is promised nothing else. */
const withoutFailures = (cause: Cause.Cause<unknown>): Cause.Cause<never> =>
  Cause.fromReasons(cause.reasons.filter((reason) => !Cause.isFailReason(reason)))

const judgeDefect = (
  settings: ConsumerSettings,
  decisions: Decisions,
  envelope: Envelope,
  cause: Cause.Cause<unknown>
): Effect.Effect<Verdict> => {
  const text = Cause.hasDies(cause) ? Cause.pretty(cause) : "the handler interrupted itself"
  const chosen = safely("onDefect", decisions.onDefect, (onDefect) =>
    typeof onDefect === "function" ? onDefect(withoutFailures(cause), envelope) : onDefect
  )
  // Defects are bugs, and nobody waits for this one.
  const told = Effect.logError(
    `Message ${envelope.id} of ${envelope.topic}/${settings.group}: its handler died at attempt ${envelope.attempt}`,
    cause
  )
  return Effect.andThen(told, carryOut(settings, envelope, { tag: "Defect", text, reason: "defect" }, chosen))
}

type Chosen =
  | { readonly _tag: "Chosen"; readonly decision: Decision | undefined }
  | { readonly _tag: "Died"; readonly defect: unknown }

/** Calls the program's own function, which may throw or answer nonsense where the types were not minded. */
const safely = <F>(name: string, option: F | undefined, call: (option: F) => Decision | undefined): Chosen => {
  if (option === undefined) return { _tag: "Chosen", decision: undefined }
  try {
    const decision = call(option)
    const problem = decisionProblem(decision)
    return problem === undefined
      ? { _tag: "Chosen", decision }
      : { _tag: "Died", defect: new Error(`what ${name} answered cannot be done: ${problem}`) }
  } catch (defect) {
    return { _tag: "Died", defect }
  }
}

/** Turns a decision into a verdict: a schedule into a delay or the end, by the attempts made so far. */
const carryOut = (
  settings: ConsumerSettings,
  envelope: Envelope,
  failure: Failure,
  chosen: Chosen
): Effect.Effect<Verdict> => {
  // What decides about defects has died itself: that is answered as if nothing had been said.
  const decision = (chosen._tag === "Chosen" ? chosen.decision : undefined) ?? retryWithBackoff
  switch (decision._tag) {
    case "Drop":
      return Effect.succeed({ _tag: "Drop", reason: decision.reason })
    case "DeadLetter":
      return deadLetter(envelope, { ...failure, reason: failure.reason === "exhausted" ? "decision" : failure.reason })
    case "Delay": {
      const delay = toMillis(decision.duration)
      return delay === undefined || delay > longestDelay || envelope.attempt >= settings.maxAttempts
        ? deadLetter(envelope, failure)
        : again(envelope, failure, Math.max(0, delay))
    }
    case "Retry":
      return Effect.gen(function* () {
        const now = yield* Clock.currentTimeMillis
        const delay =
          envelope.attempt >= settings.maxAttempts ? undefined : yield* delayOf(decision.schedule, envelope, now)
        return yield* delay === undefined || delay > longestDelay
          ? deadLetter(envelope, failure)
          : again(envelope, failure, delay)
      })
  }
}

/** The delay before the next attempt; `undefined` where the schedule has ended. A schedule that dies has ended too. */
export const delayOf = (
  schedule: Schedule.Schedule<unknown, number>,
  envelope: Envelope,
  now: number
): Effect.Effect<number | undefined> =>
  Effect.gen(function* () {
    const step = yield* Schedule.toStep(schedule)
    const start = firstFailureOf(envelope, now)
    let passed = 0
    let delay = 0
    for (let attempt = 1; attempt <= envelope.attempt; attempt++) {
      // The times of attempts past are not kept: they are taken to have been as early as they could.
      const at = attempt === envelope.attempt ? now : start + passed
      const [, duration] = yield* step(at, attempt)
      delay = Duration.toMillis(duration)
      passed += delay
    }
    return delay
  }).pipe(
    Pull.catchDone(() => Effect.succeed(undefined)),
    Effect.catchDefect(() => Effect.succeed(undefined))
  )

const again = (envelope: Envelope, failure: Failure, delay: number): Effect.Effect<Verdict> =>
  Effect.map(Clock.currentTimeMillis, (now) => ({
    _tag: "Retry",
    delay,
    countsAttempt: true,
    envelope: { ...envelope, attempt: envelope.attempt + 1, history: historyWith(envelope, failure, now) }
  }))

const deadLetter = (envelope: Envelope, failure: Failure): Effect.Effect<Verdict> =>
  Effect.map(Clock.currentTimeMillis, (now) => ({
    _tag: "DeadLetter",
    envelope: {
      ...envelope,
      history: historyWith(envelope, failure, now),
      death: { reason: failure.reason, cause: shorten(failure.text, mostCause), at: now }
    }
  }))

/** The history with one more attempt, bounded: retries must not make a message grow without end. */
const historyWith = (envelope: Envelope, failure: Failure, now: number): History => {
  const latest: FailedAttempt = {
    attempt: envelope.attempt,
    at: now,
    tag: shorten(failure.tag, 100),
    message: shorten(failure.text, mostText),
    host: thisProcess
  }
  const attempts = [...(envelope.history?.attempts ?? []), latest]
  let size = 0
  let first = attempts.length
  while (first > 0) {
    const one = attempts[first - 1]
    size += Buffer.byteLength(JSON.stringify(one))
    if (size > mostHistory && first < attempts.length) break
    first--
  }
  return { firstFailedAt: firstFailureOf(envelope, now), attempts: attempts.slice(first) }
}

/** A replayed message begins anew, although its history goes on. */
const firstFailureOf = (envelope: Envelope, now: number): number =>
  envelope.attempt === 1 ? now : (envelope.history?.firstFailedAt ?? now)

const tagOf = (error: unknown): string | undefined =>
  typeof error === "object" && error !== null && "_tag" in error && typeof error._tag === "string"
    ? error._tag
    : undefined

const textOf = (error: unknown, cause: Cause.Cause<unknown>): string => {
  if (error instanceof Error && error.message !== "") return error.message
  if (typeof error === "string") return error
  return Cause.pretty(cause)
}
