/**
 * Messages as Kafka has them: the Kafka binding of CloudEvents in binary mode. The value is the payload as it is, the record's
 * key is the key of the message, and the attributes are headers with the prefix `ce_`.
 */
import { Buffer } from "node:buffer"
import { readAttributes, writeAttributes } from "../../../messaging/CloudEvents.ts"
import type { RawMessage } from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"

/** A record as the client reads it. */
export interface Record {
  readonly key: Uint8Array | null
  readonly value: Uint8Array | null
  readonly headers: ReadonlyArray<readonly [name: Uint8Array | null, value: Uint8Array | null]>
  readonly offset: number
  /** Milliseconds since 1970: when it was written. */
  readonly timestamp: number
}

/** Headers as the client takes them. Each name is an object of its own, so that one may come twice. */
export type Headers = Map<Buffer, Buffer>

const prefix = "ce_"
/** On a message of a retry topic: when it is to be handed over, in milliseconds since 1970. */
const dueName = "millrace_due"
/** On dead letters: the topic, partition and offset where the message stood. */
const originName = "millrace_origin"
/** Names of headers that are not the publisher's. */
const own = /^(ce_|millrace_)|^(content-type|traceparent|tracestate)$/

const names = new Map<string, Buffer>()
const nameOf = (name: string): Buffer => {
  let known = names.get(name)
  if (known === undefined) {
    known = Buffer.from(name)
    // Headers of publishers may have any number of names.
    if (names.size < 1000) names.set(name, known)
  }
  return known
}

/** What else is said of a record that is written. */
export interface Extra {
  readonly due?: number | undefined
  readonly origin?: string | undefined
  /** Headers of a message that came from elsewhere, as they came, in place of their text. */
  readonly originals?: Record["headers"] | undefined
}

const attributeNames = new Map<string, string>()
const attributeName = (name: string): string => {
  const known = attributeNames.get(name)
  if (known !== undefined) return known
  attributeNames.set(name, prefix + name)
  return prefix + name
}

export const headersOf = (envelope: Envelope, extra: Extra = {}): Headers => {
  const headers: Headers = new Map()
  const set = (name: string, value: string) => headers.set(nameOf(name), Buffer.from(value))
  writeAttributes(envelope, (name, value) => set(attributeName(name), value))
  set("content-type", envelope.contentType)
  if (envelope.traceparent !== undefined) set("traceparent", envelope.traceparent)
  if (envelope.tracestate !== undefined) set("tracestate", envelope.tracestate)
  if (extra.due !== undefined) set(dueName, String(extra.due))
  if (extra.origin !== undefined) set(originName, extra.origin)
  if (extra.originals === undefined) {
    for (const name in envelope.headers) headers.set(nameOf(name), Buffer.from(envelope.headers[name] ?? ""))
  } else {
    // A copy of each name, since a map would keep only the last of two that are the same object.
    for (const [name, value] of extra.originals) {
      if (!own.test(textOf(name)))
        headers.set(Buffer.from(name ?? []), value === null ? Buffer.alloc(0) : Buffer.from(value))
    }
  }
  return headers
}

const noBytes = new Uint8Array(0)
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const utf8 = (bytes: Uint8Array): string | undefined => {
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

const isAscii = (bytes: Uint8Array): boolean => {
  for (let i = 0; i < bytes.length; i++) if ((bytes[i] ?? 0) > 127) return false
  return true
}

/** Bytes as text: UTF-8, or else base64. Most are ASCII, for which there is a faster way. */
const textOf = (bytes: Uint8Array | null): string => {
  if (bytes === null || bytes.length === 0) return ""
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return isAscii(bytes) ? buffer.toString("latin1") : (utf8(bytes) ?? buffer.toString("base64"))
}

const isPlainText = (bytes: Uint8Array | null): boolean =>
  bytes !== null && (isAscii(bytes) || utf8(bytes) !== undefined)

const find = ({ headers }: Record, wanted: string): string | undefined => {
  for (const [name, value] of headers) {
    if (name?.length === wanted.length && textOf(name) === wanted) return textOf(value)
  }
  return undefined
}

/** When a message of a retry topic is due; 0 where it does not say. */
export const dueOf = (record: Record): number => {
  const due = Number(find(record, dueName) ?? 0)
  return Number.isFinite(due) ? due : 0
}

/** Where a message stood before it was copied. */
export const originOf = (record: Record): string | undefined => find(record, originName)

const none: Readonly<{ [name: string]: string }> = {}

/** A header's name, and the value that came with it the last time: most messages have the same ones at the same places. */
interface Seen {
  readonly bytes: Uint8Array
  readonly name: string
  readonly isOwn: boolean
  /** What stands behind the prefix, where it is an attribute. */
  readonly attribute: string | undefined
  /** Its values are the same in many messages. */
  readonly isSteady: boolean
  value: Uint8Array | undefined
  text: string
}

/** By the place among the headers. */
const seen: Array<Seen> = []
const mostSeen = 32
const steady = /^(ce_(specversion|source|type|time|schemaversion)|content-type)$/
const longestSeen = 100

const isSame = (a: Uint8Array, b: Uint8Array): boolean => {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

const nameAt = (place: number, raw: Uint8Array | null): Seen => {
  const bytes = raw ?? noBytes
  const last = seen[place]
  if (last !== undefined && isSame(last.bytes, bytes)) return last
  const name = textOf(bytes)
  const attribute = name.startsWith(prefix) ? name.slice(prefix.length) : undefined
  const isSteady = steady.test(name)
  // A copy, since what was read with it could not be freed.
  const now = {
    bytes: new Uint8Array(bytes),
    name,
    isOwn: own.test(name),
    attribute,
    isSteady,
    value: undefined,
    text: ""
  }
  if (place < mostSeen && bytes.length <= longestSeen) seen[place] = now
  return now
}

const valueAt = (header: Seen, raw: Uint8Array | null): string => {
  if (raw === null || !header.isSteady || raw.length > longestSeen) return textOf(raw)
  if (header.value === undefined || !isSame(header.value, raw)) {
    header.value = new Uint8Array(raw)
    header.text = textOf(raw)
  }
  return header.text
}

/** A message as it came. `place` is where it stood, from which an id is made where it has none. */
export const messageOf = (record: Record, topic: string, place: () => string): RawMessage => {
  const attributes = new Map<string, string>()
  let contentType: string | undefined
  let traceparent: string | undefined
  let tracestate: string | undefined
  let free: { [name: string]: string } | undefined
  for (let i = 0; i < record.headers.length; i++) {
    const [rawName, rawValue] = record.headers[i] ?? [null, null]
    const header = nameAt(i, rawName)
    const value = valueAt(header, rawValue)
    const { attribute, isOwn, name } = header
    if (attribute !== undefined) attributes.set(attribute, value)
    else if (name === "content-type") contentType = value
    else if (name === "traceparent") traceparent = value
    else if (name === "tracestate") tracestate = value
    else if (!isOwn) {
      // Without a prototype, so that any name is only a name.
      free ??= Object.create(null) as { [name: string]: string }
      free[name] = value
    }
  }
  const get = (name: string): string | undefined => {
    const value = attributes.get(name)
    // The key of the record is the key of the message, also where no attribute says so.
    return value === undefined && name === "partitionkey" && record.key !== null ? textOf(record.key) : value
  }
  const envelope = readAttributes(
    get,
    { id: place, topic, timestamp: () => record.timestamp, correlationId: undefined },
    {
      contentType: contentType ?? get("datacontenttype") ?? "application/octet-stream",
      traceparent,
      tracestate,
      headers: free === undefined ? none : { ...free }
    }
  )
  // Each body is an object of its own, by which a dead letter finds the delivery that it is of.
  return { envelope, body: record.value?.length ? record.value : new Uint8Array(0) }
}

/** The headers that cannot be told by the text in an envelope: bytes, none, or a name that comes more than once. */
export const originalsOf = ({ headers }: Record): Record["headers"] | undefined => {
  const known = new Set<string>()
  let told = true
  for (const [rawName, value] of headers) {
    const name = textOf(rawName)
    if (own.test(name)) continue
    told &&= isPlainText(rawName) && isPlainText(value) && !known.has(name)
    known.add(name)
  }
  return told ? undefined : headers
}
