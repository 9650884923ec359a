/** The options of the layer, checked and with their defaults. */
import { isIP } from "node:net"
import type * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Redacted from "effect/Redacted"
import { isObject, OptionReader, portOf } from "../../OptionReader.ts"
import type { Options, SaslOptions, TlsOptions } from "../Options.ts"
import { Refusal } from "./errors.ts"

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
  const reader = new OptionReader()
  const { problems } = reader
  const brokers = reader.list("brokers", options.brokers, 'addresses such as "host:9092"', readAddress)
  if (brokers.length === 0 && problems.length === 0) problems.push("brokers must name at least one server")
  const createTopics = reader.kind("createTopics", options.createTopics, "{ partitions, replication }", isObject)
  const tls = reader.kind("tls", options.tls, "true or options", (tls) => typeof tls === "boolean" || isObject(tls))
  const sasl = reader.kind("sasl", options.sasl, "an object with a mechanism", isObject)
  const isText = (value: unknown) => typeof value === "string"
  const clientId = reader.kind("clientId", options.clientId, "a string", isText) ?? "millrace"
  const address = reader.kind("address", options.address, "a function", (value) => typeof value === "function")
  const { compression = "none" } = options
  // JavaScript callers come here too.
  if (!compressions.includes(compression)) {
    problems.push(`compression must be one of ${compressions.join(", ")}, got ${format(compression)}`)
  }
  const maxMessageBytes = reader.whole("maxMessageBytes", options.maxMessageBytes, 1_000_000)
  const settings: Settings = {
    brokers,
    address: (host, port) => {
      if (address === undefined) return { host, port }
      const given = address(`${host}:${port}`)
      const read = readAddress(given)
      if (read !== undefined) return read
      throw new Refusal(
        "INVALID_REQUEST",
        `the option address must answer one such as "host:9092", and answered ${format(given)} for ${host}:${port}`
      )
    },
    clientId,
    createTopics: createTopics && {
      partitions: reader.whole("createTopics.partitions", createTopics.partitions, 1),
      replication: reader.whole("createTopics.replication", createTopics.replication, 1)
    },
    compression,
    linger: reader.span("linger", options.linger, 0, 0),
    batchBytes: reader.whole("batchBytes", options.batchBytes, 900_000),
    bufferBytes: reader.whole("bufferBytes", options.bufferBytes, 32 * 1024 * 1024),
    maxMessageBytes,
    patience: reader.span("patience", options.patience, 30_000),
    maxUncommitted: reader.whole("maxUncommitted", options.maxUncommitted, 10_000),
    commitInterval: reader.span("commitInterval", options.commitInterval, 100),
    heartbeat: reader.span("heartbeat", options.heartbeat, 1_000),
    revokeTimeout: reader.span("revokeTimeout", options.revokeTimeout, 10_000),
    connection: {
      connectTimeout: reader.span("connectTimeout", options.connectTimeout, 5_000),
      ...(tls ? tlsOf(tls, brokers) : {}),
      ...(sasl === undefined ? {} : { sasl: saslOf(sasl) })
    }
  }
  return reader.result("Kafka.layer", settings)
}

/** Of `host:port` or `[host]:port`. */
const readAddress = (address: string): Address | undefined => {
  // JavaScript callers come here too.
  const match = typeof address !== "string" ? null : /^\[?([^\s[\]/]+?)\]?:(\d{1,5})$/.exec(address)
  const port = portOf(match?.[2])
  return match?.[1] === undefined || port === undefined ? undefined : { host: match[1], port }
}

/** Without a name of its own, servers are asked for the one that they are reached by; addresses are no names. */
const tlsOf = (tls: TlsOptions | true, brokers: ReadonlyArray<Address>): Readonly<Record<string, unknown>> => {
  const options = tls === true ? {} : tls
  return { tls: options, tlsServerName: options.servername ?? !brokers.some(({ host }) => isIP(host) !== 0) }
}

const saslOf = (sasl: SaslOptions): Readonly<Record<string, unknown>> => ({
  ...Object.fromEntries(
    Object.entries(sasl).map(([name, value]) => [name, Redacted.isRedacted(value) ? Redacted.value(value) : value])
  ),
  ...(sasl.mechanism === "OAUTHBEARER" ? { authBytesValidator: refusalOfToken } : {})
})

/**
 * A server refuses a token in an answer that is no error but carries one (RFC 7628, 3.2.2); the client takes that for
 * success unless it is told.
 */
const refusalOfToken = (answer: Uint8Array, then: (error: Error | null, answer?: Uint8Array) => void): void =>
  answer.length > 0 ? then(new Error(`the token is refused: ${Buffer.from(answer)}`)) : then(null, answer)
