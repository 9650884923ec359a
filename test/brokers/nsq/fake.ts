/**
 * Servers of NSQ that do what a test says, for what a real one cannot be brought to do: an nsqd without queues that notes what
 * it is told, hands over what it is given, and answers by a script; and the HTTP side of one, or of an nsqlookupd.
 */
import { createServer as createHttpServer } from "node:http"
import { createServer, type Server, type Socket } from "node:net"
import { Effect } from "effect"

const frameType = { response: 0, error: 1, message: 2 } as const

const frame = (type: number, data: Uint8Array): Buffer => {
  const head = Buffer.alloc(8)
  head.writeInt32BE(data.byteLength + 4, 0)
  head.writeInt32BE(type, 4)
  return Buffer.concat([head, data])
}

/** What has its size before it, and what is behind it. */
const split = (bytes: Buffer): readonly [Buffer, Buffer] => {
  const end = 4 + bytes.readUInt32BE(0)
  return [bytes.subarray(4, end), bytes.subarray(end)]
}

/** Those of an MPUB, behind their number. */
const bodiesOf = (bytes: Buffer): ReadonlyArray<Buffer> => {
  const bodies: Array<Buffer> = []
  let rest = bytes.subarray(4)
  while (rest.byteLength > 0) {
    const [body, behind] = split(rest)
    bodies.push(body)
    rest = behind
  }
  return bodies
}

/** Of 16 characters, as an nsqd has them. */
export const idAt = (n: number): string => String(n).padStart(16, "0")

/** A message that was published, with its envelope before it. */
export interface Published {
  readonly topic: string
  readonly body: Buffer
}

/** One connection. */
export class FakeClient {
  /** What it has subscribed to, as `topic channel`. */
  place: string | undefined = undefined
  /** The latest RDY. */
  ready = 0
  /** All commands, as text and without their bodies. */
  readonly said: Array<string> = []
  private readonly socket: Socket
  private readonly nsqd: FakeNsqd
  private beats = 0
  private bytes: Buffer = Buffer.alloc(0)
  /** An nsqd does one command after the other. */
  private busy: Promise<void> = Promise.resolve()

  constructor(socket: Socket, nsqd: FakeNsqd) {
    this.socket = socket
    this.nsqd = nsqd
    const beating = setInterval(() => this.beat(), 5000)
    socket.on("close", () => clearInterval(beating))
    socket.on("data", (packet: Buffer) => {
      this.bytes = Buffer.concat([this.bytes, packet])
      for (let command = this.next(); command !== undefined; command = this.next()) {
        const { bodies, line } = command
        this.note(line, bodies)
        this.busy = this.busy.then(() => this.execute(line, bodies))
      }
    })
  }

  /** Hands over a message. */
  deliver(id: string, body: Uint8Array = Buffer.from(id)): void {
    const head = Buffer.alloc(26)
    head.writeBigInt64BE(BigInt(Date.now()) * 1_000_000n, 0)
    head.writeUInt16BE(1, 8)
    head.write(id, 10, "latin1")
    this.socket.write(frame(frameType.message, Buffer.concat([head, body])))
  }

  /** Sends a heartbeat. What it returns says whether that was answered, and so all before it read. */
  beat(): () => boolean {
    const number = ++this.beats
    this.socket.write(frame(frameType.response, Buffer.from("_heartbeat_")))
    return () => this.said.filter((line) => line === "NOP").length >= number
  }

  /** Says that something went wrong, such as `E_FIN_FAILED FIN … failed`. */
  fail(text: string): void {
    this.socket.write(frame(frameType.error, Buffer.from(text)))
  }

  /** Ends the connection. */
  cut(): void {
    this.socket.destroy()
  }

  private next(): { readonly line: string; readonly bodies: ReadonlyArray<Buffer> } | undefined {
    const { bytes } = this
    if (bytes.subarray(0, 4).toString("latin1") === "  V2") {
      this.bytes = bytes.subarray(4)
      return this.next()
    }
    const end = bytes.indexOf("\n")
    if (end < 0) return undefined
    const line = bytes.toString("latin1", 0, end)
    const rest = bytes.subarray(end + 1)
    if (!/^(IDENTIFY|AUTH|M?PUB|DPUB)\b/.test(line)) {
      this.bytes = rest
      return { line, bodies: [] }
    }
    if (rest.byteLength < 4 || rest.byteLength < 4 + rest.readUInt32BE(0)) return undefined
    const [body, behind] = split(rest)
    this.bytes = behind
    return { line, bodies: line.startsWith("MPUB") ? bodiesOf(body) : [body] }
  }

  private note(line: string, bodies: ReadonlyArray<Buffer>): void {
    this.said.push(line)
    this.nsqd.said.push(line)
    const [command = "", first = ""] = line.split(" ")
    if (command === "RDY") this.ready = Number(first)
    if (command.endsWith("PUB")) this.nsqd.published.push(...bodies.map((body) => ({ topic: first, body })))
  }

  private async execute(line: string, [body]: ReadonlyArray<Buffer>): Promise<void> {
    const [command = "", ...words] = line.split(" ")
    if (command === "IDENTIFY") return this.identify(body)
    if (!/^(SUB|M?PUB|DPUB|AUTH|CLS)$/.test(command)) return
    const answer = await this.nsqd.answer(line)
    if (answer.startsWith("E_")) {
      this.fail(answer)
      this.socket.end()
      return
    }
    if (command === "SUB") this.place = words.join(" ")
    this.socket.write(frame(frameType.response, Buffer.from(answer)))
  }

  private identify(body: Buffer | undefined): void {
    const asked: { readonly msg_timeout?: number } = JSON.parse(String(body))
    const features = { version: "1.3.0", max_rdy_count: 2500, max_msg_timeout: 900_000, msg_timeout: 60_000, ...asked }
    this.socket.write(frame(frameType.response, Buffer.from(JSON.stringify(features))))
  }
}

export class FakeNsqd {
  /** Such as `127.0.0.1:4150`. */
  address = ""
  /** The connections that are open. */
  readonly clients = new Set<FakeClient>()
  /** All commands of all of them, in the order in which they came, as text and without their bodies. */
  readonly said: Array<string> = []
  readonly published: Array<Published> = []
  /** What is answered to a command that is answered; what begins with `E_` ends the connection. */
  answer: (line: string) => string | Promise<string> = () => "OK"
  private isAway = false
  readonly server: Server

  constructor() {
    this.server = createServer((socket) => {
      socket.on("error", () => undefined)
      if (this.isAway) return socket.destroy()
      const client = new FakeClient(socket, this)
      this.clients.add(client)
      socket.on("close", () => this.clients.delete(client))
    })
  }

  /** Ends all connections and lets no new ones live, until it is back. */
  goAway(): void {
    this.isAway = true
    for (const client of this.clients) client.cut()
  }

  comeBack(): void {
    this.isAway = false
  }

  /** The connection that reads a channel. */
  reader(topic: string, channel = "g"): FakeClient | undefined {
    return [...this.clients].find(({ place }) => place === `${topic} ${channel}`)
  }
}

const listening = (server: Server): Effect.Effect<string> =>
  Effect.callback((resume) => {
    server.listen(0, "127.0.0.1", () => {
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      resume(Effect.succeed(`127.0.0.1:${port}`))
    })
  })

/** An nsqd, until the scope closes. */
export const fakeNsqd = Effect.acquireRelease(
  Effect.gen(function* () {
    const nsqd = new FakeNsqd()
    nsqd.address = yield* listening(nsqd.server)
    return nsqd
  }),
  (nsqd) =>
    Effect.sync(() => {
      nsqd.goAway()
      nsqd.server.close()
    })
)

/** An HTTP server that answers each path with what the function says, as JSON; until the scope closes. */
export const fakeHttp = (answer: (path: string) => unknown) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const asked: Array<string> = []
      const server = createHttpServer((request, response) => {
        asked.push(request.url ?? "")
        response.end(JSON.stringify(answer(request.url ?? "") ?? {}))
      })
      return { server, asked, url: `http://${yield* listening(server)}` }
    }),
    ({ server }) =>
      Effect.sync(() => {
        server.closeAllConnections()
        server.close()
      })
  )
