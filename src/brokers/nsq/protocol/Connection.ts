/**
 * One connection to an nsqd: commands go out in the order in which they are given, answers come back in the same order.
 *
 * **When to use**
 *
 * Use it to speak with an nsqd without a broker around it, with the commands of `Command`: {@link ask} for those that are
 * answered (SUB, PUB, MPUB, DPUB, CLS), `send` for those that are not (RDY, FIN, REQ, TOUCH, NOP).
 *
 * **Details**
 *
 * Heartbeats are answered by themselves. A server that has sent nothing for two heartbeats is given up: it sends one per
 * interval whatever else happens. It is Node's own socket, since Effect's core has no TCP of its own, and since a message must
 * cost no more here than the bytes that are cut out of its packet.
 */
import { connect as openTcp, type Socket } from "node:net"
import { hostname } from "node:os"
import { connect as openTls, type ConnectionOptions as TlsOptions } from "node:tls"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Command from "./Command.ts"
import { ConnectionLost, FrameError, ServerError, serverError } from "./errors.ts"
import { FrameParser, frameType } from "./FrameParser.ts"
import { type Message, readMessage } from "./Message.ts"

export interface ConnectOptions {
  readonly host: string
  readonly port: number
  /** Milliseconds for the whole handshake. Default 5000. */
  readonly connectTimeout?: number | undefined
  /** Milliseconds, at least 1000. Default 10,000. */
  readonly heartbeat?: number | undefined
  /** Milliseconds after which a message that was not answered for is handed over again, at least 1000. Default: the server's. */
  readonly msgTimeout?: number | undefined
  /** Milliseconds that a message may wait at the server for others to go with it, -1 for none. Default: the server's. */
  readonly outputBufferTimeout?: number | undefined
  /** Bytes that the server gathers for one write, -1 for none. Default: the server's. */
  readonly outputBufferSize?: number | undefined
  /** TLS, where the server has it; a server without it is refused. */
  readonly tls?: TlsOptions | undefined
  /** For servers with `-auth-http-address`. */
  readonly authSecret?: Redacted.Redacted<string> | undefined
  readonly userAgent?: string | undefined
  /** The most data of one frame that is accepted. Default 16 MiB. */
  readonly maxFrameBytes?: number | undefined
  readonly onMessage?: ((message: Message, connection: Connection) => void) | undefined
  /** A settlement came too late: the message is not this connection's any more. */
  readonly onFailed?: ((error: ServerError, connection: Connection) => void) | undefined
}

/** What the server has agreed to. */
export interface Features {
  readonly version: string
  readonly maxRdyCount: number
  /** Milliseconds. */
  readonly msgTimeout: number
  /** Milliseconds from the delivery until which TOUCH can move its end. */
  readonly maxMsgTimeout: number
  readonly authRequired: boolean
}

/** The answer to a command: the data of its response, or what went wrong. `NotDone`: an earlier command closed the connection. */
export type Answer = Buffer | ServerError | ConnectionLost | "NotDone"

export class Connection {
  readonly address: string
  features: Features = {
    version: "",
    maxRdyCount: 2500,
    msgTimeout: 60_000,
    maxMsgTimeout: 900_000,
    authRequired: false
  }
  /** Why it has ended; none while it is open. */
  ended: ConnectionLost | undefined = undefined
  /** When something came last, by the clock of the process. */
  private heardAt = Date.now()
  private socket: Socket
  private parser: FrameParser
  private readonly options: ConnectOptions
  private readonly heartbeat: number
  private readonly watch: NodeJS.Timeout
  /** Those who wait for an answer, oldest first; those before `head` have it. */
  private waiting: Array<(answer: Answer) => void> = []
  private head = 0
  private out: Array<Uint8Array> = []
  private closing = false
  private readonly onEnd = new Set<(lost: ConnectionLost) => void>()
  private refused = false

  constructor(options: ConnectOptions, socket: Socket) {
    this.options = options
    this.socket = socket
    this.address = addressOf(options)
    this.heartbeat = options.heartbeat ?? 10_000
    this.parser = this.newParser()
    this.watch = setInterval(() => this.checkSilence(), Math.max(100, this.heartbeat / 4))
    this.watch.unref()
    this.listen(socket)
  }

  private newParser(): FrameParser {
    return new FrameParser(this.options.maxFrameBytes ?? 16 * 1024 * 1024, this.receive)
  }

  private listen(socket: Socket): void {
    socket.setNoDelay(true)
    socket.on("data", (packet: Buffer) => {
      this.heardAt = Date.now()
      const problem = this.parser.push(packet)
      if (problem !== undefined) this.destroy(problem.message)
    })
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.refused = error.code === "ECONNREFUSED"
      // What OpenSSL says ends in a newline.
      this.over(error.message.trim() || (error.code ?? error.name))
    })
    socket.on("close", () => this.over(this.closing ? "it was closed" : "the server has closed it"))
  }

  /** Whether commands can be given. */
  get isOpen(): boolean {
    return this.ended === undefined && !this.closing
  }

  /** Bytes given and not handed to the network. */
  get unsent(): number {
    return this.socket.writableLength
  }

  /** Commands without an answer yet. */
  get unanswered(): number {
    return this.waiting.length - this.head
  }

  private readonly receive = (type: number, data: Buffer): void => {
    // After the end there is nobody to tell.
    if (this.ended !== undefined) return
    switch (type) {
      case frameType.message: {
        const message = readMessage(data)
        if (message instanceof FrameError) return this.destroy(message.message)
        this.options.onMessage?.(message, this)
        return
      }
      case frameType.error: {
        const error = serverError(data.toString())
        if (error.closes) return this.failed(error)
        this.options.onFailed?.(error, this)
        return
      }
      default:
        if (data.byteLength === 11 && data.toString("latin1") === "_heartbeat_") this.send(Command.nop)
        else this.next()?.(data)
    }
  }

  private next(): ((answer: Answer) => void) | undefined {
    const first = this.waiting[this.head]
    if (first === undefined) return undefined
    if (++this.head > 512) {
      this.waiting = this.waiting.slice(this.head)
      this.head = 0
    }
    return first
  }

  /** The server does nothing more: what was sent behind the command that failed is not done. */
  private failed(error: ServerError): void {
    this.next()?.(error)
    for (let next = this.next(); next !== undefined; next = this.next()) next("NotDone")
    this.destroy(error.message)
  }

  /** Gives a command that the server does not answer. */
  send(command: Uint8Array): void {
    if (this.ended !== undefined) return
    if (this.out.length === 0) queueMicrotask(this.flush)
    this.out.push(command)
  }

  /** Gives a command and waits for its answer. */
  request(command: ReadonlyArray<Uint8Array>, done: (answer: Answer) => void): void {
    if (this.ended !== undefined) return done("NotDone")
    this.waiting.push(done)
    for (const part of command) this.send(part)
  }

  /** What was given in one turn goes in one write. */
  private readonly flush = (): void => {
    const { out } = this
    this.out = []
    if (this.ended !== undefined || !this.socket.writable) return
    const [first] = out
    if (first !== undefined) this.socket.write(out.length === 1 ? first : Buffer.concat(out))
  }

  /** Closes it in good order: what was given before is sent and done. */
  end(): void {
    if (this.ended !== undefined || this.closing) return
    this.flush()
    this.closing = true
    this.socket.end()
  }

  /** Ends it at once. */
  destroy(reason: string): void {
    this.over(reason)
  }

  private over(reason: string): void {
    if (this.ended !== undefined) return
    this.ended = new ConnectionLost({ address: this.address, detail: reason, refused: this.refused })
    clearInterval(this.watch)
    this.socket.destroy()
    for (let next = this.next(); next !== undefined; next = this.next()) next(this.ended)
    for (const listener of this.onEnd) listener(this.ended)
  }

  private checkSilence(): void {
    if (Date.now() - this.heardAt <= 2 * this.heartbeat + 500) return
    const heardAt = this.heardAt
    // After a long pause of this process, what has come meanwhile is still to be read.
    setImmediate(() => {
      if (this.heardAt === heardAt) this.destroy(`it was silent for ${Date.now() - heardAt} ms`)
    })
  }

  /** Waits for its end. */
  readonly closed: Effect.Effect<ConnectionLost> = Effect.callback((resume) => {
    if (this.ended !== undefined) return resume(Effect.succeed(this.ended))
    this.onEnd.add((lost) => resume(Effect.succeed(lost)))
  })

  private readonly asked = (command: Uint8Array): Promise<Buffer> =>
    new Promise((resolve, reject) => {
      this.request([command], (answer) => {
        if (Buffer.isBuffer(answer)) resolve(answer)
        else reject(answer === "NotDone" ? this.ended : answer)
      })
    })

  /** IDENTIFY, TLS and AUTH. */
  async shakeHands(): Promise<void> {
    const { authSecret, msgTimeout, outputBufferSize, outputBufferTimeout, tls, userAgent } = this.options
    this.send(Command.magic)
    const answer = await this.asked(
      Command.identify({
        client_id: `${hostname().split(".")[0]}:${process.pid}`,
        hostname: hostname(),
        user_agent: userAgent ?? "millrace",
        feature_negotiation: true,
        heartbeat_interval: Math.round(this.heartbeat),
        tls_v1: tls !== undefined,
        ...(msgTimeout === undefined ? {} : { msg_timeout: Math.round(msgTimeout) }),
        ...(outputBufferTimeout === undefined ? {} : { output_buffer_timeout: Math.round(outputBufferTimeout) }),
        ...(outputBufferSize === undefined ? {} : { output_buffer_size: outputBufferSize })
      })
    )
    const agreed = readFeatures(answer)
    this.features = agreed.features
    if (tls !== undefined) {
      if (!agreed.tls) {
        throw new ServerError({
          code: "E_TLS",
          detail: "the server has no TLS; leave out tls, or give it a certificate"
        })
      }
      await this.secure(tls)
    }
    if (!agreed.features.authRequired) return
    if (authSecret === undefined) {
      throw new ServerError({ code: "E_AUTH_FIRST", detail: "the server wants a secret; give authSecret" })
    }
    await this.asked(Command.auth(Redacted.value(authSecret)))
  }

  /** Goes on with TLS on the same socket. */
  private secure(tls: TlsOptions): Promise<unknown> {
    const { host } = this.options
    this.socket.removeAllListeners()
    const secured = openTls({ ...(isIpAddress(host) ? {} : { servername: host }), ...tls, socket: this.socket })
    this.socket = secured
    this.parser = this.newParser()
    this.listen(secured)
    return new Promise((resolve, reject) => {
      // The server says OK once more when it is done.
      this.waiting.push((answer) => {
        if (Buffer.isBuffer(answer)) resolve(answer)
        else reject(answer)
      })
    })
  }
}

const addressOf = ({ host, port }: ConnectOptions): string => `${host}:${port}`
const isIpAddress = (host: string): boolean => /^[\d.]+$|:/.test(host)

const readFeatures = (answer: Buffer): { readonly features: Features; readonly tls: boolean } => {
  const read = parse(answer.toString())
  const number = (name: string, fallback: number): number => {
    const value = read[name]
    return typeof value === "number" && value > 0 ? value : fallback
  }
  return {
    features: {
      version: typeof read.version === "string" ? read.version : "",
      maxRdyCount: number("max_rdy_count", 2500),
      msgTimeout: number("msg_timeout", 60_000),
      maxMsgTimeout: number("max_msg_timeout", 900_000),
      authRequired: read.auth_required === true
    },
    tls: read.tls_v1 === true
  }
}

/** Servers older than feature negotiation say OK. */
const parse = (text: string): Readonly<Record<string, unknown>> => {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === "object" && value !== null ? { ...value } : {}
  } catch {
    return {}
  }
}

/**
 * Opens a connection, which ends with the scope. Fails with `ConnectionLost` where nobody answers in time, with `ServerError`
 * where the server refuses the options or the secret.
 */
export const connect = (
  options: ConnectOptions
): Effect.Effect<Connection, ConnectionLost | ServerError, Scope.Scope> =>
  Effect.acquireRelease(open(options), (connection) => Effect.sync(() => connection.destroy("it was closed")))

/** The same, to be closed by hand; interrupted there is none. */
export const open = (options: ConnectOptions): Effect.Effect<Connection, ConnectionLost | ServerError> =>
  Effect.callback((resume) => {
    const connection = new Connection(options, openTcp({ host: options.host, port: options.port }))
    const { connectTimeout = 5000 } = options
    const timer = setTimeout(() => connection.destroy(`no answer within ${connectTimeout} ms`), connectTimeout)
    connection.shakeHands().then(
      () => {
        clearTimeout(timer)
        resume(Effect.succeed(connection))
      },
      (error) => {
        clearTimeout(timer)
        connection.destroy("the handshake failed")
        resume(Effect.fail(error instanceof ServerError ? error : (connection.ended as ConnectionLost)))
      }
    )
    return Effect.sync(() => {
      clearTimeout(timer)
      connection.destroy("nobody waits for it any more")
    })
  })

/** Gives a command and waits for its answer. Interrupted, it may have been done. */
export const ask = (connection: Connection, command: Uint8Array): Effect.Effect<Buffer, ServerError | ConnectionLost> =>
  Effect.callback((resume) => {
    connection.request([command], (answer) => {
      if (Buffer.isBuffer(answer)) return resume(Effect.succeed(answer))
      resume(Effect.fail(answer === "NotDone" ? (connection.ended ?? lostWithout(connection)) : answer))
    })
  })

const lostWithout = ({ address }: Connection): ConnectionLost =>
  new ConnectionLost({ address, detail: "an earlier command was refused", refused: false })
