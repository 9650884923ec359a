/**
 * How a message lies in a row: what is looked for and what every message has in columns, the rest of the envelope as JSON.
 */
import type { SQLInputValue } from "node:sqlite"
import type { Death, Envelope, History } from "../../../messaging/Envelope.ts"

/** `attempt, version, timestamp, id, key, meta, body`: the columns that every table of messages has. */
export type MessageColumns = readonly [
  attempt: number,
  version: number,
  timestamp: number,
  id: string,
  key: string | null,
  meta: string | null,
  body: Uint8Array
]

export const columns = "attempt, version, timestamp, id, key, meta, body"

/** What has no column. One-letter names, because most messages carry one or two of them a million times. */
interface Meta {
  readonly s?: string
  readonly c?: string
  readonly p?: string | undefined
  readonly t?: string | undefined
  readonly r?: string | undefined
  readonly h?: Readonly<Record<string, string>>
  readonly f?: History | undefined
  readonly d?: Death | undefined
  readonly n?: number
}

const usualType = "application/json"
const noHeaders: Readonly<Record<string, string>> = Object.freeze({})

const hasAny = (record: Readonly<Record<string, string>>): boolean => {
  for (const _ in record) return true
  return false
}

const metaOf = (envelope: Envelope): string | null => {
  const meta: Record<string, unknown> = {}
  if (envelope.source !== "") meta.s = envelope.source
  if (envelope.contentType !== usualType) meta.c = envelope.contentType
  // JSON leaves out what is undefined.
  meta.p = envelope.traceparent
  meta.t = envelope.tracestate
  meta.r = envelope.correlationId
  if (hasAny(envelope.headers)) meta.h = envelope.headers
  meta.f = envelope.history
  meta.d = envelope.death
  if (envelope.replays !== 0) meta.n = envelope.replays
  const json = JSON.stringify(meta)
  return json === "{}" ? null : json
}

/** The parameters of the columns, in their order. */
export const toColumns = (
  envelope: Envelope
): readonly [
  attempt: SQLInputValue,
  version: SQLInputValue,
  timestamp: SQLInputValue,
  id: SQLInputValue,
  key: SQLInputValue,
  meta: SQLInputValue
] => [
  envelope.attempt,
  envelope.version,
  envelope.timestamp,
  toText(envelope.id),
  envelope.key === undefined ? null : toText(envelope.key),
  metaOf(envelope)
]

/** Most messages of one publisher have the same rest, so the last one read is kept. */
let lastJson: string | null = null
let lastMeta: Meta = {}

const parse = (json: string | null): Meta => {
  if (json !== lastJson) {
    // Only `metaOf` writes this column.
    lastMeta = json === null ? {} : (JSON.parse(json) as Meta)
    lastJson = json
  }
  return lastMeta
}

export const toEnvelope = (
  topic: string,
  attempt: number,
  version: number,
  timestamp: number,
  id: string,
  key: string | null,
  json: string | null
): Envelope => {
  const meta = parse(json)
  return {
    id: fromText(id),
    topic,
    source: meta.s ?? "",
    key: key === null ? undefined : fromText(key),
    version,
    timestamp,
    contentType: meta.c ?? usualType,
    attempt,
    traceparent: meta.p,
    tracestate: meta.t,
    correlationId: meta.r,
    headers: meta.h ?? noHeaders,
    history: meta.f,
    death: meta.d,
    replays: meta.n ?? 0
  }
}

/** Begins what is escaped. A character that no text of a person begins with. */
const escaped = "\uffff"

/** SQLite keeps UTF-8, which has no lone surrogates; a string that has some is kept escaped, so that none become equal. */
export const toText = (text: string): string =>
  text.isWellFormed() && !text.startsWith(escaped) ? text : escaped + JSON.stringify(text)

export const fromText = (text: string): string =>
  // Only `toText` writes what begins so, from a string.
  text.startsWith(escaped) ? (JSON.parse(text.slice(1)) as string) : text
