/**
 * Envelopes as CloudEvents 1.0 attributes, for brokers that have headers: what every mapping has in common.
 *
 * **When to use**
 *
 * Use it in a driver, with the prefix of the broker's binding (`cloudEvents:` for AMQP, `ce_` for Kafka). `docs/wire-format.md`
 * has the whole mapping, for programs that read and write it without Millrace.
 *
 * **Details**
 *
 * - All values are text. `datacontenttype` and the trace context are not among the attributes: brokers have a place of their
 *   own for the content type, and `traceparent` and `tracestate` go as plain headers, where tracers look for them.
 * - What is absent or not readable has a default, so that a message of any program is a message.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { DeathReason, Envelope } from "./Envelope.ts"

const Attempts = Schema.fromJsonString(
  Schema.Array(
    Schema.Struct({
      attempt: Schema.Number,
      at: Schema.Number,
      tag: Schema.String,
      message: Schema.String,
      host: Schema.String
    })
  )
)
const decodeAttempts = Schema.decodeUnknownOption(Attempts)

const reasons: ReadonlyArray<DeathReason> = [
  "decision",
  "exhausted",
  "defect",
  "timeout",
  "undecodable",
  "unknownVersion",
  "crashed"
]

type Set = (name: string, value: string) => void

/** Hands each attribute of an envelope to `set`; those that say nothing are left out. */
export const writeAttributes = (envelope: Envelope, set: Set): void => {
  writeShared(envelope, set)
  writeOwn(envelope, set)
}

/** The attributes that messages of one topic and program have in common: the source, the topic and the version. */
export const writeShared = (envelope: Envelope, set: Set): void => {
  set("specversion", "1.0")
  set("source", envelope.source)
  set("type", envelope.topic)
  set("schemaversion", String(envelope.version))
}

/** The other attributes. */
export const writeOwn = (envelope: Envelope, set: Set): void => {
  const { correlationId, death, history, key } = envelope
  set("id", envelope.id)
  set("time", writeTime(envelope.timestamp))
  if (key !== undefined) set("partitionkey", key)
  if (correlationId !== undefined) set("correlationid", correlationId)
  if (envelope.attempt !== 1) set("attempt", String(envelope.attempt))
  if (envelope.replays !== 0) set("replays", String(envelope.replays))
  if (history !== undefined) {
    set("firstfailed", writeTime(history.firstFailedAt))
    set("history", JSON.stringify(history.attempts))
  }
  if (death !== undefined) {
    set("deathreason", death.reason)
    set("deathcause", death.cause)
    set("deathtime", writeTime(death.at))
  }
}

/** What stands where a message does not say it. */
export interface Defaults {
  readonly id: () => string
  readonly topic: string
  /** Milliseconds since 1970. */
  readonly timestamp: () => number
  readonly correlationId: string | undefined
}

/** The parts of an envelope that do not stand in attributes. */
export type Beside = Pick<Envelope, "contentType" | "traceparent" | "tracestate" | "headers">

/** The envelope that the attributes make, by their names without prefix. */
export const readAttributes = (
  get: (name: string) => string | undefined,
  defaults: Defaults,
  beside: Beside
): Envelope => ({
  id: get("id") || defaults.id(),
  topic: get("type") ?? defaults.topic,
  source: get("source") ?? "",
  key: get("partitionkey"),
  version: whole(get("schemaversion"), 1, 1),
  timestamp: readTime(get("time")) ?? defaults.timestamp(),
  contentType: beside.contentType,
  attempt: whole(get("attempt"), 1, 1),
  traceparent: beside.traceparent,
  tracestate: beside.tracestate,
  correlationId: get("correlationid") ?? defaults.correlationId,
  headers: beside.headers,
  history: readHistory(get("firstfailed"), get("history")),
  death: readDeath(get("deathreason"), get("deathcause"), get("deathtime")),
  replays: whole(get("replays"), 0, 0)
})

/** A whole number of at least `least` that is small enough to be counted on; else the default. */
const whole = (value: string | undefined, least: number, fallback: number): number => {
  if (value === undefined) return fallback
  const number = Number(value)
  return Number.isSafeInteger(number) && number >= least ? number : fallback
}

/** The furthest times that a date can be. */
const furthest = 8.64e15

/** Many messages are of the same millisecond. */
let lastWritten = { millis: 0, text: new Date(0).toISOString() }

const writeTime = (millis: number): string => {
  if (millis === lastWritten.millis) return lastWritten.text
  const within = Number.isNaN(millis) ? 0 : Math.max(-furthest, Math.min(furthest, millis))
  lastWritten = { millis, text: new Date(within).toISOString() }
  return lastWritten.text
}

/** JavaScript takes much else for a date too, such as "-3". */
const rfc3339 = /^[+-]?\d{4,6}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d/

let lastRead: { readonly text: string; readonly millis: number | undefined } = { text: "", millis: undefined }

const readTime = (text: string | undefined): number | undefined => {
  if (text === undefined) return undefined
  if (text === lastRead.text) return lastRead.millis
  const millis = rfc3339.test(text) ? Date.parse(text) : Number.NaN
  lastRead = { text, millis: Number.isNaN(millis) ? undefined : millis }
  return lastRead.millis
}

const readHistory = (firstFailed: string | undefined, history: string | undefined): Envelope["history"] => {
  const firstFailedAt = readTime(firstFailed)
  if (firstFailedAt === undefined) return undefined
  return { firstFailedAt, attempts: Option.getOrElse(decodeAttempts(history), () => []) }
}

const readDeath = (reason: string | undefined, cause = "", time: string | undefined): Envelope["death"] => {
  const known = reasons.find((one) => one === reason)
  return known === undefined ? undefined : { reason: known, cause, at: readTime(time) ?? 0 }
}
