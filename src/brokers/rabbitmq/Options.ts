/** The options of a RabbitMQ broker. */
import type * as Duration from "effect/Duration"
import type * as Redacted from "effect/Redacted"

/**
 * Options of the socket, handed on to Node's `net.connect` and `tls.connect` and to amqplib as they are: certificates, keys,
 * `servername`, `keepAlive`, `credentials`, `clientProperties`.
 */
export interface SocketOptions {
  readonly ca?: string | Uint8Array | ReadonlyArray<string | Uint8Array> | undefined
  readonly cert?: string | Uint8Array | undefined
  readonly key?: string | Uint8Array | undefined
  readonly pfx?: string | Uint8Array | undefined
  readonly passphrase?: string | undefined
  readonly servername?: string | undefined
  readonly rejectUnauthorized?: boolean | undefined
  readonly [option: string]: unknown
}

/** Where a broker is, and the password in its URL. */
export type Url = string | Redacted.Redacted<string>

interface Common<N extends string> {
  /**
   * Where the server is, such as `amqp://user:password@host:5672/vhost`; with TLS `amqps://…`. Of several, those of one
   * cluster, the first that answers is used.
   */
  readonly url: Url | ReadonlyArray<Url>
  /** Which broker of the app. Default: the only one. */
  readonly name?: N | undefined
  /** After two to three of these without a sign of life a connection is given up. Default 10 seconds. */
  readonly heartbeat?: Duration.Input | undefined
  /** How long one try to connect may take. Default 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /**
   * How long an operation waits for a connection that is down before it fails as `Unavailable`. Default 30 seconds. A
   * connection that is blocked because the server runs out of memory or disk is waited for without a limit.
   */
  readonly waitForConnection?: Duration.Input | undefined
  /** Most messages sent and not confirmed yet; further ones wait. Default 1024. */
  readonly maxUnconfirmed?: number | undefined
  /** Most bytes of payload sent and not confirmed yet; a larger message goes alone. Default 16 MiB. */
  readonly maxUnconfirmedBytes?: number | undefined
  /** The largest payload. Not more than the server's own `max_message_size`. Default 16 MiB, that of RabbitMQ 4. */
  readonly maxMessageBytes?: number | undefined
  /**
   * The server's `consumer_timeout`, after which it closes the channel of a message that is not acknowledged. Shortly before
   * that the message is given up: its handler is interrupted with `LeaseLost`, and it is delivered again. Default 30 minutes,
   * that of the server.
   */
  readonly acknowledgementTimeout?: Duration.Input | undefined
  readonly socket?: SocketOptions | undefined
}

/** Which groups can be consumed with `order: "key"`: all, or those that are named. */
export type Order = true | ReadonlyArray<string>

interface InOrder<O> {
  /**
   * The queues of these groups have one consumer at a time (`x-single-active-consumer`): the one process that receives handles
   * its keys at the same time, each in order, and when it ends the next one receives. That holds for the consumers of these
   * groups that ask for no order too. Default: none, and `order: "key"` does not compile.
   */
  readonly order?: O
  readonly priorities?: undefined
}

/** Options of {@link layer}. */
export type Options<
  N extends string,
  P extends number | undefined,
  O extends Order | undefined = undefined
> = Common<N> &
  (
    | (InOrder<O> & {
        /** The kind of all queues. `quorum`, the default, is replicated and counts deliveries; `classic` can have priorities. */
        readonly queueType?: "quorum" | undefined
      })
    | (InOrder<O> & { readonly queueType: "classic" })
    | {
        readonly queueType: "classic"
        /** Queues know priorities from 0 to this number, up to 255; a few are enough. Default: none. */
        readonly priorities?: P
        readonly order?: undefined
      }
  )
