/**
 * Messages as NSQ has them. It has no headers, so the envelope stands in front of the payload:
 *
 * ```text
 *   89 4D 52 31   length (4 bytes, big-endian)   envelope: JSON of that length   payload: all that is left, as it is
 * ```
 *
 * The JSON has the CloudEvents attributes as text, the free headers as an object `headers`, and `notbefore`, the earliest time
 * of its delivery in milliseconds since 1970, where it has one. A body that does not begin like this is the payload of a
 * program that knows nothing of envelopes.
 */
import { readAttributes, writeOwn, writeShared } from "../../../messaging/CloudEvents.ts"
import type { RawMessage } from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import type { Message } from "../protocol/Message.ts"

/** No text begins with the first byte. */
const magic = 0x894d5231
/** The mark and the length of the envelope. */
const headBytes = 8

/**
 * What an nsqd stores, with its size in front as PUB and MPUB want it. Without a delay `notBefore` is 0.
 */
export const encode = (envelope: Envelope, body: Uint8Array, notBefore: number): Buffer => {
  let text = sharedOf(envelope)
  writeOwn(envelope, (name, value) => {
    text += `,"${name}":${quoted(value)}`
  })
  const { headers, traceparent, tracestate } = envelope
  if (traceparent !== undefined) text += `,"traceparent":${quoted(traceparent)}`
  if (tracestate !== undefined) text += `,"tracestate":${quoted(tracestate)}`
  for (const _ in headers) {
    text += `,"headers":${JSON.stringify(headers)}`
    break
  }
  if (notBefore > 0) text += `,"notbefore":${notBefore}`
  text += "}"
  const length = Buffer.byteLength(text)
  const bytes = Buffer.allocUnsafe(4 + headBytes + length + body.byteLength)
  bytes.writeUInt32BE(bytes.byteLength - 4, 0)
  bytes.writeUInt32BE(magic, 4)
  bytes.writeUInt32BE(length, 8)
  bytes.write(text, 12, "utf8")
  bytes.set(body, 12 + length)
  return bytes
}

/** How the envelope of the last message began, and of what. */
let last = { topic: "", source: "", version: 0, contentType: "", text: "" }

/** The beginning of an envelope, which the next message of the same topic mostly has too. */
const sharedOf = (envelope: Envelope): string => {
  const { contentType, source, topic, version } = envelope
  if (topic !== last.topic || source !== last.source || version !== last.version || contentType !== last.contentType) {
    let text = `{"datacontenttype":${quoted(contentType)}`
    writeShared(envelope, (name, value) => {
      text += `,"${name}":${quoted(value)}`
    })
    last = { topic, source, version, contentType, text }
  }
  return last.text
}

const plain = /^[ !#-[\]-~]*$/

/** Text as JSON. Most is plain, for which there is a faster way. */
const quoted = (text: string): string => (plain.test(text) ? `"${text}"` : JSON.stringify(text))

/** A message as it came, and when it may be handed over. */
export interface Decoded {
  readonly message: RawMessage
  /** Milliseconds since 1970; 0 where it may at once. */
  readonly notBefore: number
}

/** Reads a message; one without an envelope is given what the nsqd knows of it. */
export const decode = ({ body, id, timestamp }: Message, topic: string): Decoded => {
  const framed = readEnvelope(body)
  const values = framed?.values ?? nothing
  const get = (name: string): string | undefined => {
    const value = values[name]
    return typeof value === "string" ? value : undefined
  }
  const envelope = readAttributes(
    get,
    { id: () => id, topic, timestamp: () => timestamp, correlationId: undefined },
    {
      contentType: get("datacontenttype") ?? "application/octet-stream",
      traceparent: get("traceparent"),
      tracestate: get("tracestate"),
      headers: headersOf(values.headers)
    }
  )
  const notBefore = values.notbefore
  return {
    message: { envelope, body: framed?.payload ?? body },
    notBefore: typeof notBefore === "number" && Number.isFinite(notBefore) ? notBefore : 0
  }
}

type Values = Readonly<Record<string, unknown>>
const nothing: Values = {}

/** What stands in front of the payload; `undefined` where that is no envelope. */
const readEnvelope = (body: Buffer): { readonly values: Values; readonly payload: Buffer } | undefined => {
  if (body.byteLength < headBytes || body.readUInt32BE(0) !== magic) return undefined
  const end = headBytes + body.readUInt32BE(4)
  if (end > body.byteLength) return undefined
  try {
    const values: unknown = JSON.parse(body.toString("utf8", headBytes, end))
    if (typeof values !== "object" || values === null || Array.isArray(values)) return undefined
    // An object of JSON is a record of whatever.
    return { values: values as Values, payload: body.subarray(end) }
  } catch {
    return undefined
  }
}

const noHeaders: Readonly<Record<string, string>> = {}

/** Values that are no text, as another program may write them, become their JSON. */
const headersOf = (value: unknown): Readonly<Record<string, string>> => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return noHeaders
  const entries = Object.entries(value)
  // Checked right here.
  if (entries.every(([, inner]) => typeof inner === "string")) return value as Readonly<Record<string, string>>
  return Object.fromEntries(entries.map(([name, inner]) => [name, textOf(inner)]))
}

const textOf = (value: unknown): string =>
  typeof value === "string" ? value : value === null ? "" : JSON.stringify(value)
