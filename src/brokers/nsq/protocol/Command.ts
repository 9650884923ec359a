/** The commands of the V2 protocol as bytes. Names and ids are expected to be valid: an nsqd closes the connection on others. */

/** What a connection begins with. */
export const magic = Buffer.from("  V2", "latin1")

const line = (text: string): Buffer => Buffer.from(`${text}\n`, "latin1")

/** A command with a body, which its size stands before. */
const withBody = (text: string, body: Uint8Array): Buffer => {
  const head = text.length + 1
  const bytes = Buffer.allocUnsafe(head + 4 + body.byteLength)
  bytes.write(`${text}\n`, "latin1")
  bytes.writeUInt32BE(body.byteLength, head)
  bytes.set(body, head + 4)
  return bytes
}

export const identify = (features: Readonly<Record<string, unknown>>): Buffer =>
  withBody("IDENTIFY", Buffer.from(JSON.stringify(features)))
export const auth = (secret: string): Buffer => withBody("AUTH", Buffer.from(secret))
export const pub = (topic: string, body: Uint8Array): Buffer => withBody(`PUB ${topic}`, body)
/** Delivered after so many milliseconds: a whole number, not above the server's `max-req-timeout`. */
export const dpub = (topic: string, delay: number, body: Uint8Array): Buffer => withBody(`DPUB ${topic} ${delay}`, body)

/** All of the bodies, confirmed by one answer. */
export const mpub = (topic: string, bodies: ReadonlyArray<Uint8Array>): Buffer =>
  Buffer.concat(mpubSized(topic, bodies.flatMap(sized)))

/** A body with its size before it, as it stands in PUB and MPUB. */
export const sized = (body: Uint8Array): ReadonlyArray<Uint8Array> => {
  const size = Buffer.allocUnsafe(4)
  size.writeUInt32BE(body.byteLength)
  return [size, body]
}

/** PUB, of a body that has its size before it. */
export const pubSized = (topic: string, body: Uint8Array): ReadonlyArray<Uint8Array> => [line(`PUB ${topic}`), body]
export const dpubSized = (topic: string, delay: number, body: Uint8Array): ReadonlyArray<Uint8Array> => [
  line(`DPUB ${topic} ${delay}`),
  body
]

/** MPUB, of bodies that have their sizes before them; `count` where a body and its size are two parts. */
export const mpubSized = (
  topic: string,
  parts: ReadonlyArray<Uint8Array>,
  count = parts.length / 2
): ReadonlyArray<Uint8Array> => {
  const text = `MPUB ${topic}\n`
  const head = Buffer.allocUnsafe(text.length + 8)
  head.write(text, "latin1")
  head.writeUInt32BE(
    parts.reduce((sum, part) => sum + part.byteLength, 4),
    text.length
  )
  head.writeUInt32BE(count, text.length + 4)
  return [head, ...parts]
}

export const sub = (topic: string, channel: string): Buffer => line(`SUB ${topic} ${channel}`)
/** Hands over messages as long as fewer than this are in flight on the connection. */
export const rdy = (count: number): Buffer => line(`RDY ${count}`)
export const fin = (id: string): Buffer => line(`FIN ${id}`)
/** Given back, to be handed over after so many milliseconds; a server cuts them to its `max-req-timeout` without a word. */
export const req = (id: string, delay: number): Buffer => line(`REQ ${id} ${delay}`)
export const touch = (id: string): Buffer => line(`TOUCH ${id}`)
export const cls: Buffer = line("CLS")
export const nop: Buffer = line("NOP")
