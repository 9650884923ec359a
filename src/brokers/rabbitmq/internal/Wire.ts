/**
 * Messages as RabbitMQ has them: the AMQP binding of CloudEvents in binary mode. The body is the payload as it is; the
 * attributes are headers with the prefix `cloudEvents:`; what AMQP has a property for stands there too, for tools that show it.
 */
import type { Message, Options } from "amqplib"
import { readAttributes, writeAttributes } from "../../../messaging/CloudEvents.ts"
import type { RawMessage } from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import { headersOf, isServerHeader, textOfValue, valuesOf } from "./Headers.ts"

const prefix = "cloudEvents:"
/** Some clients cannot have colons in names; the binding allows for that. */
const otherPrefix = "cloudEvents_"

/** The names of attributes with their prefix, each made once. */
const prefixed = (prefix: string): ((name: string) => string) => {
  const known = new Map<string, string>()
  return (name) => {
    const found = known.get(name)
    if (found !== undefined) return found
    known.set(name, prefix + name)
    return prefix + name
  }
}
const header = prefixed(prefix)
const otherHeader = prefixed(otherPrefix)

/** AMQP's short strings have at most 255 bytes. What is longer stands in its header alone. */
const short = (value: string): string | undefined =>
  value.length <= 63 || Buffer.byteLength(value) <= 255 ? value : undefined

/** The properties and headers of a message that is published. */
export const propertiesOf = (
  envelope: Envelope,
  extra: { readonly expiration?: number | undefined; readonly priority?: number | undefined }
): Options.Publish => {
  // The one name that would not be one is no header: see `isServerHeader`.
  const headers: Record<string, unknown> = {}
  writeAttributes(envelope, (name, value) => {
    headers[header(name)] = value
  })
  const values = valuesOf(envelope.headers)
  for (const name in values) if (!name.startsWith(prefix)) headers[name] = values[name]
  const { contentType, correlationId, traceparent, tracestate } = envelope
  const type = short(contentType)
  if (type === undefined) headers[header("datacontenttype")] = contentType
  if (traceparent !== undefined) headers.traceparent = traceparent
  if (tracestate !== undefined) headers.tracestate = tracestate
  const properties: Options.Publish = {
    headers,
    deliveryMode: 2,
    mandatory: true,
    timestamp: seconds(envelope.timestamp)
  }
  setShort(properties, "contentType", type)
  setShort(properties, "messageId", short(envelope.id))
  setShort(properties, "type", short(envelope.topic))
  setShort(properties, "correlationId", correlationId === undefined ? undefined : short(correlationId))
  if (extra.expiration !== undefined) properties.expiration = extra.expiration
  if (extra.priority !== undefined) properties.priority = extra.priority
  return properties
}

const setShort = (
  properties: Options.Publish,
  name: "contentType" | "messageId" | "type" | "correlationId",
  value: string | undefined
): void => {
  if (value !== undefined) properties[name] = value
}

/** The property is an unsigned number of whole seconds; the exact time is a header. */
const seconds = (millis: number): number => {
  const whole = Math.floor(millis / 1000)
  return Number.isSafeInteger(whole) && whole > 0 ? whole : 0
}

/** The id that a message was published under, for telling which one came back. */
export const idOf = ({ properties }: Message): string => {
  const value = properties.headers?.[header("id")]
  return value === undefined ? (text(properties.messageId) ?? "") : textOfValue(value)
}

const text = (value: unknown): string | undefined => (typeof value === "string" && value !== "" ? value : undefined)

/** A message as it came; `id` makes one where it has none. */
export const messageOf = (message: Message, topic: string, id: () => string): RawMessage => {
  const { content, properties } = message
  const values: Readonly<Record<string, unknown>> = properties.headers ?? {}
  const free: Array<string> = []
  let others = false
  for (const name in values) {
    if (name.startsWith(prefix)) continue
    if (name.startsWith(otherPrefix)) {
      others = true
      continue
    }
    if (name === "traceparent" || name === "tracestate" || isServerHeader(name)) continue
    free.push(name)
  }
  const get = (name: string): string | undefined => {
    const value = values[header(name)] ?? (others ? values[otherHeader(name)] : undefined)
    return value === undefined ? undefined : textOfValue(value)
  }
  const plain = (name: string): string | undefined => {
    const value = values[name]
    return value === undefined ? get(name) : textOfValue(value)
  }
  const { contentType, correlationId, messageId, timestamp } = properties
  const envelope = readAttributes(
    get,
    {
      id: () => text(messageId) ?? id(),
      topic: text(properties.type) ?? topic,
      timestamp: () => (typeof timestamp === "number" ? timestamp * 1000 : Date.now()),
      correlationId: typeof correlationId === "string" ? correlationId : undefined
    },
    {
      contentType: text(contentType) ?? get("datacontenttype") ?? "application/octet-stream",
      traceparent: plain("traceparent"),
      tracestate: plain("tracestate"),
      headers: headersOf(values, free)
    }
  )
  return { envelope, body: content }
}

/** How often a quorum queue has handed it over, this time included; other queues do not count. */
export const deliveriesOf = ({ properties }: Message, quorum: boolean): number | undefined => {
  if (!quorum) return undefined
  const headers = properties.headers ?? {}
  const count = headers["x-acquired-count"] ?? headers["x-delivery-count"]
  return typeof count === "number" ? count + 1 : 1
}
