/** The options of a Kafka broker. */
import type * as Duration from "effect/Duration"
import type * as Redacted from "effect/Redacted"

/** Options of TLS, handed on to Node's `tls.connect` as they are. */
export interface TlsOptions {
  readonly ca?: string | Uint8Array | ReadonlyArray<string | Uint8Array> | undefined
  readonly cert?: string | Uint8Array | undefined
  readonly key?: string | Uint8Array | undefined
  readonly passphrase?: string | undefined
  readonly servername?: string | undefined
  readonly rejectUnauthorized?: boolean | undefined
  readonly [option: string]: unknown
}

type Secret = string | Redacted.Redacted<string>

/** How to say who we are; handed on to the client. */
export type SaslOptions =
  | {
      readonly mechanism: "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512"
      readonly username: string
      readonly password: Secret
    }
  | {
      readonly mechanism: "OAUTHBEARER"
      /** The token, or how to get one; asked for anew with each connection. */
      readonly token: Secret | (() => string | Promise<string>)
      readonly oauthBearerExtensions?: Readonly<Record<string, string>> | undefined
    }

/** Options of {@link layer}. */
export interface Options<N extends string> {
  /** Some servers of the cluster, as `host:port`; the others are found through them. */
  readonly brokers: ReadonlyArray<string>
  /**
   * Where a server is reached that says it is at this address, as `host:port`: for tunnels and forwarded ports. Default: at
   * that address.
   */
  readonly address?: ((advertised: string) => string) | undefined
  /** Which broker of the app. Default: the only one. */
  readonly name?: N | undefined
  /** What the servers call this program in their logs and quotas. Default `millrace`. */
  readonly clientId?: string | undefined
  /**
   * Topics that are missing are created so: those of messages, and the two of each group for retries and dead letters.
   * Default: none is created, and what is missing is `Rejected` with `NoGroup`.
   */
  readonly createTopics?: { readonly partitions: number; readonly replication: number } | undefined
  /** Default `none`. */
  readonly compression?: "none" | "gzip" | "snappy" | "lz4" | "zstd" | undefined
  /**
   * How long a message waits for others to share its request. Default 0: those that come together, and while a request is
   * under way, share one all the same.
   */
  readonly linger?: Duration.Input | undefined
  /** Most bytes of one partition in one request. Default 900 kB. */
  readonly batchBytes?: number | undefined
  /** Most bytes of payload that wait to be sent or confirmed; further messages wait for room. Default 32 MiB. */
  readonly bufferBytes?: number | undefined
  /** The largest payload in bytes. Topics that are created here allow for it. Default 1,000,000, which fits Kafka's own. */
  readonly maxMessageBytes?: number | undefined
  /** How long an operation is tried again before it fails as `Unavailable`. Default 30 seconds. */
  readonly patience?: Duration.Input | undefined
  /**
   * Most messages of a partition behind the first unfinished one that are remembered as finished or begun. At this bound
   * the partition is not read on until its first message is finished; others go on. Default 10,000.
   */
  readonly maxUncommitted?: number | undefined
  /** How often progress is written; a crash repeats at most so much of what was finished. Default 100 milliseconds. */
  readonly commitInterval?: Duration.Input | undefined
  /** How often a consumer asks for its share of the partitions, at most; the servers may want it sooner. Default 1 second. */
  readonly heartbeat?: Duration.Input | undefined
  /** How long handlers may go on with messages of a partition that another consumer is to have. Default 10 seconds. */
  readonly revokeTimeout?: Duration.Input | undefined
  /** How long one try to connect may take. Default 5 seconds. */
  readonly connectTimeout?: Duration.Input | undefined
  readonly tls?: TlsOptions | boolean | undefined
  readonly sasl?: SaslOptions | undefined
}
