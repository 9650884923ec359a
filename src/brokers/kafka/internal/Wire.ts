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

/** A message as it came. `place` is where it stood, from which an id is made where it has none. */
export const messageOf = (record: Record, topic: string, place: () => string): RawMessage => {
  const attributes = new Map<string, string>()
  let free: { [name: string]: string } | undefined
  for (const [rawName, value] of record.headers) {
    const name = textOf(rawName)
    if (own.test(name)) attributes.set(name, textOf(value))
    else {
      // Without a prototype, so that any name is only a name.
      free ??= Object.create(null) as { [name: string]: string }
      free[name] = textOf(value)
    }
  }
  const get = (name: string): string | undefined => {
    const value = attributes.get(attributeName(name))
    // The key of the record is the key of the message, also where no attribute says so.
    return value === undefined && name === "partitionkey" && record.key !== null ? textOf(record.key) : value
  }
  const envelope = readAttributes(
    get,
    { id: place, topic, timestamp: () => record.timestamp, correlationId: undefined },
    {
      contentType: attributes.get("content-type") ?? get("datacontenttype") ?? "application/octet-stream",
      traceparent: attributes.get("traceparent"),
      tracestate: attributes.get("tracestate"),
      headers: free === undefined ? none : { ...free }
    }
  )
  return { envelope, body: record.value ?? new Uint8Array(0) }
}

/** The headers that cannot be told by the text in an envelope: bytes, none, or a name that comes more than once. */
export const originalsOf = ({ headers }: Record): Record["headers"] | undefined => {
  const seen = new Set<string>()
  let told = true
  for (const [rawName, value] of headers) {
    const name = textOf(rawName)
    if (own.test(name)) continue
    told &&= isPlainText(rawName) && isPlainText(value) && !seen.has(name)
    seen.add(name)
  }
  return told ? undefined : headers
}
