/** The options of an NSQ broker. */
import type { ConnectionOptions } from "node:tls"
import type * as Duration from "effect/Duration"
import type * as Redacted from "effect/Redacted"

/**
 * Where an nsqd is: `host:port` of its TCP address, with its HTTP address (such as `http://host:4151`) where something is to
 * be asked of it, which an nsqlookupd knows too.
 */
export type Address = string | { readonly tcp: string; readonly http?: string | undefined }

/** Options of {@link layer}. At least one of `nsqd` and `lookupd` is needed. */
export interface Options<N extends string> {
  /** Messages are published to these, in turns. Default: to all that the nsqlookupd know. */
  readonly nsqd?: ReadonlyArray<Address> | undefined
  /** HTTP addresses of nsqlookupd, such as `http://host:4161`: they say which nsqd have a topic. Default: those of `nsqd`. */
  readonly lookupd?: ReadonlyArray<string> | undefined
  /** Which broker of the app. Default: the only one. */
  readonly name?: N | undefined
  /** How often the nsqlookupd are asked, give or take a quarter. Default 10 seconds. */
  readonly lookupInterval?: Duration.Input | undefined
  /** After two of these without a sign of life a connection is given up; at least a second. Default 10 seconds. */
  readonly heartbeat?: Duration.Input | undefined
  /** How long one try to connect may take. Default 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  /** How long an operation waits for a connection before it fails as `Unavailable`. Default 30 seconds. */
  readonly waitForConnection?: Duration.Input | undefined
  /** Most messages sent to one nsqd and not confirmed yet; further ones wait. Default 4096. */
  readonly maxUnconfirmed?: number | undefined
  /**
   * The servers' `-max-msg-size`, which holds for payload and envelope together. Default 1 MiB, theirs. The largest payload is
   * 32 KiB less, since retries and dead letters add their history.
   */
  readonly maxFrameBytes?: number | undefined
  /** The servers' `-max-req-timeout`; longer delays take several steps. Default 1 hour, theirs. */
  readonly maxRequeueDelay?: Duration.Input | undefined
  /**
   * How long a message may wait at the server for others to go with it; not below the server's own least. What waits is lost
   * when the server is killed. 0 sends each at once, which costs throughput. Default 25 milliseconds.
   */
  readonly outputBufferTimeout?: Duration.Input | undefined
  /** TLS, where the servers have it; `{}` for no options of Node's `tls.connect`. Default: none. */
  readonly tls?: ConnectionOptions | undefined
  /** For servers with `-auth-http-address`. */
  readonly authSecret?: string | Redacted.Redacted<string> | undefined
}
