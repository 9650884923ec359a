/** One connection to a server, from its handshake to its end. */
import { Duplex, Writable } from "node:stream"
import type { Channel, ChannelModel } from "amqplib"
import { connect } from "amqplib"
import * as Effect from "effect/Effect"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import { errorOf, replyCode, textOf } from "./errors.ts"
import type { Settings } from "./Settings.ts"

/** Milliseconds in which a closed connection says its last. */
const lastWord = 1_000

/** Half of what servers allow by default: each costs them memory. */
const mostChannels = 1_024
/** The reply code for what went wrong inside the server. */
const internalError = 541
/** Bytes of a frame with the properties of a message that are none of these. */
const frameOverhead = 22
/** The client writes up to 64 kB of headers, beside properties of up to 255 bytes each. */
const clientLimit = 65_536 + 2_048

/** Of a peer that does not answer, the socket would stay open. Others may have the last word. */
const cutSoon = (abort: AbortController): void => {
  setTimeout(() => abort.abort(), lastWord).unref()
}

export class Connection {
  readonly model: ChannelModel
  /** Most bytes of all properties and headers of a message; infinite where it is more than the client can write. */
  readonly mostProperties: number
  /** Most channels that may be open at the same time. */
  readonly mostChannels: number
  /** Channels of lanes: those that are open, and those that are being opened or closed. */
  channels = 0
  /** Why the server takes no messages now, such as "low on memory". */
  blocked: string | undefined = undefined
  /** Why it has ended, as a sentence; none while it is open. */
  reason: string | undefined = undefined
  /** The server failed at what was asked of it by this connection, and closed it. */
  failedInside = false
  private readonly abort: AbortController
  private readonly socket: Writable | undefined
  private gathering = false
  private readonly listeners = new Set<() => void>()

  constructor(model: ChannelModel, abort: AbortController) {
    this.model = model
    this.abort = abort
    // Not in the client's types. Where another version has them elsewhere, nothing is gathered, and the server looks at sizes.
    const { channelMax, frameMax, stream } = model.connection as {
      readonly channelMax?: unknown
      readonly frameMax?: unknown
      readonly stream?: unknown
    }
    this.mostChannels = Math.min(mostChannels, typeof channelMax === "number" ? channelMax : mostChannels)
    // They go in one frame, which the client does not look at and for which the server closes the connection.
    const most = typeof frameMax === "number" ? frameMax - frameOverhead : Number.POSITIVE_INFINITY
    this.mostProperties = most < clientLimit ? most : Number.POSITIVE_INFINITY
    this.socket = stream instanceof Writable || stream instanceof Duplex ? stream : undefined
    // The client goes on writing then; this listener comes before its own.
    this.socket?.prependListener("drain", () => this.gather())
    let error: unknown
    // An event of this name that nobody hears throws.
    model.on("error", (cause) => {
      error = cause
    })
    model.on("close", (cause) => {
      this.reason = textOf(cause ?? error ?? "it was closed")
      this.failedInside = replyCode(cause) === internalError
      cutSoon(abort)
      this.tell()
    })
    model.on("blocked", (reason) => {
      this.blocked = reason
      this.tell()
    })
    model.on("unblocked", () => {
      this.blocked = undefined
      this.tell()
    })
  }

  get isOpen(): boolean {
    return this.reason === undefined
  }

  /** Hears when it is blocked, unblocked, and at its end. */
  listen(listener: () => void): void {
    this.listeners.add(listener)
  }

  private tell(): void {
    for (const listener of this.listeners) listener()
  }

  /**
   * Gathers what is written in this turn of the event loop, to hand it to the system in one piece: the client by itself makes a
   * system call for each message, which costs more than everything else about it.
   */
  gather(): void {
    const { socket } = this
    if (socket === undefined || this.gathering) return
    this.gathering = true
    socket.cork()
    // The client writes in its own turn, which comes between these two.
    setImmediate(() =>
      setImmediate(() => {
        this.gathering = false
        socket.uncork()
      })
    )
  }

  /** Resolves at its end. */
  readonly ended: Effect.Effect<string> = Effect.callback((resume) => {
    const look = () => {
      if (this.reason !== undefined) resume(Effect.succeed(this.reason))
    }
    this.listeners.add(look)
    look()
    return Effect.sync(() => this.listeners.delete(look))
  })

  /** Closes it in good order; cuts it where the server does not answer in time. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    if (!this.isOpen) return Effect.void
    return Effect.promise(() => this.model.close().catch(() => undefined)).pipe(
      Effect.timeoutOption("2 seconds"),
      Effect.ensuring(Effect.sync(() => this.abort.abort()))
    )
  })
}

/**
 * Tries each of the urls once, and hands over the connection in the moment that it is open: interrupted, it leaves none behind
 * that nobody knows of.
 */
export const open = (settings: Settings, use: (connection: Connection) => void): Effect.Effect<void, BrokerError> =>
  settings.urls.map((url) => openOne(url, settings, use)).reduce((first, second) => Effect.catch(first, () => second))

const openOne = (
  url: string,
  settings: Settings,
  use: (connection: Connection) => void
): Effect.Effect<void, BrokerError> =>
  Effect.callback<void, BrokerError>((resume) => {
    const abort = new AbortController()
    const fail = (error: unknown) =>
      resume(Effect.fail(errorOf({ operation: "connect" }, describe(error, new URL(url).host))))
    // Small frames, such as acknowledgements, must not wait for others to fill a packet.
    const socket = { ...settings.socket, noDelay: true, timeout: settings.connectTimeout, signal: abort.signal }
    try {
      connect(url, socket).then((model) => {
        // It has listeners from the first moment, also where nobody waits any more and it is cut already.
        const connection = new Connection(model, abort)
        // Not in the client's types: the server has closed it in the same breath, which the client has told nobody.
        const { expectSocketClose } = model.connection as { readonly expectSocketClose?: unknown }
        if (expectSocketClose === true) {
          cutSoon(abort)
          return fail(new Error("the server closed the connection when it was opened"))
        }
        if (!abort.signal.aborted) use(connection)
        resume(Effect.void)
      }, fail)
    } catch (error) {
      fail(error)
    }
    return Effect.sync(() => abort.abort())
  })

/** The error with the address in its text, and never with the password. */
const describe = (error: unknown, host: string): unknown => {
  const said = error instanceof AggregateError ? error.errors.map(textOf).join(", ") : textOf(error)
  // The client does not tell why.
  const text = said.startsWith("Expected ConnectionOpenOk")
    ? "the server refused the virtual host; does it exist, is it up, and may this user use it?"
    : said.startsWith("Frame size")
      ? `what answers does not speak AMQP; is it the AMQP port of the server (5672, with TLS 5671)? (${said})`
      : said.includes(":wrong version number:")
        ? "what answers does not speak TLS; use amqp:// there, or the server's port for TLS (5671)"
        : said
  const described = new Error(`cannot connect to ${host}: ${text}`, { cause: error })
  return Object.assign(described, { code: replyCode(error) })
}

/** Opens a channel, and closes it when the work is done. */
export const withChannel = async <A>(connection: Connection, use: (channel: Channel) => Promise<A>): Promise<A> => {
  const channel = await connection.model.createChannel()
  quiet(channel)
  // Where the connection ends while it is closed, the client does not answer.
  const closed = new Promise<void>((resolve) => channel.once("close", () => resolve()))
  try {
    return await use(channel)
  } finally {
    await Promise.race([closed, channel.close().catch(() => undefined)])
  }
}

/** Hears the events that would throw if nobody did; the operation that they are about fails by itself. */
export const quiet = (channel: Channel): void => {
  channel.on("error", () => undefined)
  channel.on("handler-error", () => undefined)
}
