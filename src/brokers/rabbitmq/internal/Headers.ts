/**
 * Header values of any AMQP type as the text that an envelope has, and back.
 *
 * Text stays as it is. Numbers, booleans and decimals are written out, times as RFC 3339, null as empty text, bytes as their
 * text where they are UTF-8 and else in base64, lists and tables as JSON of the same. A message that is sent on by its
 * consumer, to be tried again or as a dead letter, carries the values that it came with.
 */

/** What the client makes of field tables. */
type Values = Readonly<Record<string, unknown>>
type Headers = Readonly<Record<string, string>>

const none: Headers = {}
const originals = new WeakMap<Headers, Values>()
const decoder = new TextDecoder("utf-8", { fatal: true })

/** Headers that are the server's business: what it notes of a message's way, and where copies go. */
const server =
  /^(CC|BCC|x-death|x-(first|last)-death-(exchange|queue|reason)|x-delivery-count|x-acquired-count|__proto__)$/

export const isServerHeader = (name: string): boolean => server.test(name)

/** The text of a header value. */
export const textOfValue = (value: unknown): string => {
  if (typeof value === "string") return value
  const plain = plainOf(value)
  return typeof plain === "string" ? plain : plain === null ? "" : JSON.stringify(plain)
}

/** The value as JSON has it. */
const plainOf = (value: unknown): unknown => {
  if (value === null || value === undefined) return null
  if (typeof value !== "object") return Number.isFinite(value) || typeof value !== "number" ? value : String(value)
  if (value instanceof Uint8Array) {
    try {
      return decoder.decode(value)
    } catch {
      return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64")
    }
  }
  if (Array.isArray(value)) return value.map(plainOf)
  if ("!" in value && "value" in value) return typedOf(value["!"], value.value)
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, plainOf(inner)]))
}

/** Values of types that JavaScript has not. */
const typedOf = (type: unknown, value: unknown): unknown => {
  if (type === "timestamp" && typeof value === "number") {
    const time = new Date(value * 1000)
    return Number.isNaN(time.getTime()) ? String(value) : time.toISOString()
  }
  if (type === "decimal" && typeof value === "object" && value !== null && "places" in value && "digits" in value) {
    return String(Number(value.digits) / 10 ** Number(value.places))
  }
  return plainOf(value)
}

/** The headers of an envelope, from those values of a message that are free. */
export const headersOf = (values: Values, names: ReadonlyArray<string>): Headers => {
  if (names.length === 0) return none
  const headers: Record<string, string> = {}
  let typed = false
  for (const name of names) {
    const value = values[name]
    headers[name] = textOfValue(value)
    typed ||= typeof value !== "string"
  }
  if (typed) originals.set(headers, Object.fromEntries(names.map((name) => [name, values[name]])))
  return headers
}

/** The values of headers that came with a message, as they came; of others their text. */
export const valuesOf = (headers: Headers): Values => (headers === none ? none : (originals.get(headers) ?? headers))

/** What is wrong with a header, as a sentence; `undefined` where nothing is. */
export const headerProblem = (headers: Headers): string | undefined => {
  for (const name in headers) {
    if (isServerHeader(name)) return `header "${name}" means something to RabbitMQ; choose another name`
    if (name.length > 60 && Buffer.byteLength(name) > 255) {
      return `the name of header "${name.slice(0, 20)}…" has more than 255 bytes`
    }
  }
  return undefined
}

/** Bytes that a value takes in a message, at most. */
export const bytesOf = (value: unknown): number => {
  if (typeof value === "string") return 5 + Buffer.byteLength(value)
  if (value instanceof Uint8Array) return 5 + value.byteLength
  if (Array.isArray(value)) return value.reduce<number>((sum, one) => sum + bytesOf(one), 5)
  if (typeof value !== "object" || value === null) return 9
  return Object.entries(value).reduce((sum, [name, one]) => sum + 1 + Buffer.byteLength(name) + bytesOf(one), 5)
}
