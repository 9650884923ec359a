/** A way to the server on which a test may do something else than pass on what the server says. */
import { createServer, type Socket, connect as tcp } from "node:net"
import { Effect } from "effect"
import { byPort } from "./support.ts"

/** A frame of the server on its way to the client. */
export interface Frame {
  /** Which connection, counted from 0. */
  readonly connection: number
  readonly channel: number
  /** Class and method, such as `10.41`; empty where it is no method. */
  readonly method: string
  readonly bytes: Buffer
}

/**
 * What becomes of it: it is passed on, or nothing is any more, or the client's connection is reset or ended, or these bytes
 * are sent instead. After anything but `pass` the server is gone, and the client's side stays open as long as the client wants.
 */
export type Answer = "pass" | "hold" | "reset" | "end" | Buffer

/** `connection.close` with this code. */
export const closeFrame = (code: number): Buffer => {
  const text = Buffer.from("SAID BY A TEST")
  const payload = Buffer.alloc(4 + 2 + 1 + text.length + 4)
  payload.writeUInt16BE(10, 0)
  payload.writeUInt16BE(50, 2)
  payload.writeUInt16BE(code, 4)
  payload.writeUInt8(text.length, 6)
  text.copy(payload, 7)
  const head = Buffer.alloc(7)
  head.writeUInt8(1, 0)
  head.writeUInt32BE(payload.length, 3)
  return Buffer.concat([head, payload, end])
}

const end = Buffer.from([0xce])
const heartbeat = Buffer.from([8, 0, 0, 0, 0, 0, 0, 0xce])

/** A gate in front of the server, which asks about each frame. */
export const gate = (url: string, ask: (frame: Frame) => Answer) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.callback<{ readonly port: number; readonly clients: Set<Socket>; readonly close: () => void }>(
        (resume) => {
          const clients = new Set<Socket>()
          let accepted = 0
          const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
            clients.add(client)
            client.once("close", () => clients.delete(client))
            keep(client, Number(new URL(url).port), accepted++, ask)
          })
          server.listen(0, "127.0.0.1", () => {
            const address = server.address()
            const port = typeof address === "object" && address !== null ? address.port : 0
            const close = () => {
              server.close()
              for (const client of clients) client.destroy()
            }
            resume(Effect.succeed({ port, clients, close }))
          })
        }
      ),
      ({ close }) => Effect.sync(close)
    ),
    ({ clients, port }) => ({
      url: byPort(url, port),
      /** Connections that the client has not let go of. */
      open: () => clients.size,
      /** Resets them all. */
      cut: Effect.sync(() => {
        for (const client of clients) client.resetAndDestroy()
      })
    })
  )

const keep = (client: Socket, port: number, connection: number, ask: (frame: Frame) => Answer): void => {
  const server = tcp({ host: "127.0.0.1", port, noDelay: true })
  for (const socket of [client, server]) socket.on("error", () => undefined)
  let over = false
  let rest = Buffer.alloc(0)
  client.on("data", (bytes) => {
    if (!over) server.write(bytes)
  })
  // Whether it is half closed or gone is seen by what comes back when something is written.
  client.on("end", () => {
    const timer = setInterval(() => client.write(heartbeat), 10)
    client.once("close", () => clearInterval(timer))
  })
  client.once("close", () => server.destroy())
  server.once("close", () => {
    if (!over) client.destroy()
  })
  server.on("data", (bytes) => {
    rest = Buffer.concat([rest, bytes])
    while (!over && rest.length >= 8) {
      const length = rest.readUInt32BE(3) + 8
      if (rest.length < length) return
      const frame = rest.subarray(0, length)
      rest = rest.subarray(length)
      const method = frame[0] === 1 ? `${frame.readUInt16BE(7)}.${frame.readUInt16BE(9)}` : ""
      const answer = ask({ connection, channel: frame.readUInt16BE(1), method, bytes: frame })
      if (answer === "pass") {
        client.write(frame)
        continue
      }
      over = true
      server.destroy()
      if (answer === "reset") client.resetAndDestroy()
      else if (answer === "end") client.end()
      else if (answer !== "hold") client.write(answer)
    }
  })
}
