/** The options of the layer, checked and with their defaults. */
import { isIP } from "node:net"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { InvalidOption } from "../../../pool/WorkerPool.ts"
import type { Options, SaslOptions, TlsOptions } from "../Options.ts"

interface Address {
  readonly host: string
  readonly port: number
}

/** Times are milliseconds. */
export interface Settings {
  readonly brokers: ReadonlyArray<Address>
  /** Where a server is reached that says it is there. */
  readonly address: (host: string, port: number) => Address
  readonly clientId: string
  readonly createTopics: { readonly partitions: number; readonly replication: number } | undefined
  readonly compression: "none" | "gzip" | "snappy" | "lz4" | "zstd"
  readonly linger: number
  readonly batchBytes: number
  readonly bufferBytes: number
  readonly maxMessageBytes: number
  readonly patience: number
  readonly maxUncommitted: number
  readonly commitInterval: number
  readonly heartbeat: number
  readonly revokeTimeout: number
  /** What connections are made with. */
  readonly connection: Readonly<Record<string, unknown>>
}

const compressions = ["none", "gzip", "snappy", "lz4", "zstd"]

/** A wrong option is a defect that says what is allowed. */
export const check = (options: Options<string>): Effect.Effect<Settings> => {
  const problems: Array<string> = []
  const whole = (name: string, value: number | undefined, fallback: number): number => {
    if (value === undefined) return fallback
    if (Number.isSafeInteger(value) && value >= 1) return value
    problems.push(`${name} must be a whole number from 1, got ${String(value)}`)
    return fallback
  }
  const span = (name: string, value: Duration.Input | undefined, fallback: number, least = 1): number => {
    if (value === undefined) return fallback
    const millis = Option.map(Duration.fromInput(value), Duration.toMillis)
    if (Option.isSome(millis) && millis.value >= least && millis.value < 2 ** 31) return millis.value
    problems.push(`${name} must be a duration of at least ${least} ms, such as "5 seconds", got ${String(value)}`)
    return fallback
  }
  const brokers = options.brokers.flatMap((address) => {
    const read = readAddress(address)
    if (read !== undefined) return [read]
    problems.push(`brokers must be addresses such as "host:9092", got ${JSON.stringify(address)}`)
    return []
  })
  if (options.brokers.length === 0) problems.push("brokers must not be an empty list")
  const { compression = "none", createTopics } = options
  // JavaScript callers come here too.
  if (!compressions.includes(compression)) {
    problems.push(`compression must be one of ${compressions.join(", ")}, got ${String(compression)}`)
  }
  const maxMessageBytes = whole("maxMessageBytes", options.maxMessageBytes, 1_000_000)
  const settings: Settings = {
    brokers,
    address: (host, port) => readAddress(options.address?.(`${host}:${port}`) ?? "") ?? { host, port },
    clientId: options.clientId ?? "millrace",
    createTopics: createTopics && {
      partitions: whole("createTopics.partitions", createTopics.partitions, 1),
      replication: whole("createTopics.replication", createTopics.replication, 1)
    },
    compression,
    linger: span("linger", options.linger, 0, 0),
    batchBytes: whole("batchBytes", options.batchBytes, 900_000),
    bufferBytes: whole("bufferBytes", options.bufferBytes, 32 * 1024 * 1024),
    maxMessageBytes,
    patience: span("patience", options.patience, 30_000),
    maxUncommitted: whole("maxUncommitted", options.maxUncommitted, 10_000),
    commitInterval: span("commitInterval", options.commitInterval, 100),
    heartbeat: span("heartbeat", options.heartbeat, 1_000),
    revokeTimeout: span("revokeTimeout", options.revokeTimeout, 10_000),
    connection: {
      connectTimeout: span("connectTimeout", options.connectTimeout, 5_000),
      ...(options.tls ? tlsOf(options.tls, brokers) : {}),
      ...(options.sasl === undefined ? {} : { sasl: saslOf(options.sasl) })
    }
  }
  return problems.length === 0
    ? Effect.succeed(settings)
    : Effect.die(new InvalidOption({ operation: "Kafka.layer", problem: problems.join("\n") }))
}

/** Of `host:port` or `[host]:port`. */
const readAddress = (address: string): Address | undefined => {
  const match = /^\[?([^\s[\]]+?)\]?:(\d{1,5})$/.exec(address)
  return match?.[1] === undefined ? undefined : { host: match[1], port: Number(match[2]) }
}

/** Without a name of its own, servers are asked for the one that they are reached by; addresses are no names. */
const tlsOf = (tls: TlsOptions | true, brokers: ReadonlyArray<Address>): Readonly<Record<string, unknown>> => {
  const options = tls === true ? {} : tls
  return { tls: options, tlsServerName: options.servername ?? !brokers.some(({ host }) => isIP(host) !== 0) }
}

const saslOf = (sasl: SaslOptions): Readonly<Record<string, unknown>> =>
  Object.fromEntries(
    Object.entries(sasl).map(([name, value]) => [name, Redacted.isRedacted(value) ? Redacted.value(value) : value])
  )
