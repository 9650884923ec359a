/** The options of the layer, checked and with their defaults. Times are milliseconds. */
import type { ConnectionOptions } from "node:tls"
import type * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { isObject, OptionReader, portOf } from "../../OptionReader.ts"
import type { Address, Options } from "../Options.ts"

/** An nsqd. */
export interface NodeAddress {
  readonly host: string
  readonly port: number
  /** `undefined` where it is not known. */
  readonly http: string | undefined
}

export interface Settings {
  readonly nsqd: ReadonlyArray<NodeAddress>
  readonly lookupd: ReadonlyArray<string>
  readonly lookupInterval: number
  readonly heartbeat: number
  readonly connectTimeout: number
  readonly waitForConnection: number
  readonly maxUnconfirmed: number
  readonly maxFrameBytes: number
  readonly maxRequeueDelay: number
  readonly outputBufferTimeout: number
  readonly tls: ConnectionOptions | undefined
  readonly authSecret: Redacted.Redacted<string> | undefined
}

/** Left free in each frame for what retries and death add to an envelope. */
export const growth = 32 * 1024

export const keyOf = ({ host, port }: { readonly host: string; readonly port: number }): string => `${host}:${port}`

/** A wrong option is a defect that says what is allowed. */
export const check = (options: Options<string>): Effect.Effect<Settings> => {
  const reader = new OptionReader()
  const { problems } = reader
  const nsqd = reader.list("nsqd", options.nsqd, "addresses host:port, with or without http", readAddress)
  const lookupd = reader.list("lookupd", options.lookupd, 'URLs such as "http://127.0.0.1:4161"', readUrl)
  if (nsqd.length === 0 && lookupd.length === 0 && problems.length === 0) {
    problems.push('nsqd or lookupd must name at least one server, such as nsqd: ["127.0.0.1:4150"]')
  }
  const isSecret = (value: unknown) => typeof value === "string" || Redacted.isRedacted(value)
  const secret = reader.kind("authSecret", options.authSecret, "a string, which may be redacted", isSecret)
  const settings: Settings = {
    nsqd,
    lookupd,
    lookupInterval: reader.span("lookupInterval", options.lookupInterval, 10_000, 10),
    heartbeat: reader.span("heartbeat", options.heartbeat, 10_000, 1000),
    connectTimeout: reader.span("connectTimeout", options.connectTimeout, 5_000),
    waitForConnection: reader.span("waitForConnection", options.waitForConnection, 30_000),
    maxUnconfirmed: reader.whole("maxUnconfirmed", options.maxUnconfirmed, 4096),
    maxFrameBytes: reader.whole("maxFrameBytes", options.maxFrameBytes, 1024 * 1024, { least: 2 * growth }),
    maxRequeueDelay: reader.span("maxRequeueDelay", options.maxRequeueDelay, 3_600_000, 100),
    outputBufferTimeout: reader.span("outputBufferTimeout", options.outputBufferTimeout, 25, 0),
    tls: reader.kind("tls", options.tls, "options of a TLS connection", isObject),
    authSecret: typeof secret === "string" ? Redacted.make(secret) : secret
  }
  return reader.result("Nsq.layer", settings)
}

// JavaScript callers come here too.
const readAddress = (address: Address): NodeAddress | undefined => {
  if (typeof address !== "string" && !isObject(address)) return undefined
  const { http, tcp } = typeof address === "string" ? { tcp: address, http: undefined } : address
  const match = typeof tcp === "string" ? /^(?:\[([^\]]+)\]|([^:/\s]+)):(\d{1,5})$/.exec(tcp) : null
  const host = match?.[1] ?? match?.[2]
  const port = portOf(match?.[3])
  if (host === undefined || port === undefined) return undefined
  const url = http === undefined ? undefined : readUrl(http)
  return http !== undefined && url === undefined ? undefined : { host, port, http: url }
}

const readUrl = (url: unknown): string | undefined => {
  if (typeof url !== "string" || !URL.canParse(url)) return undefined
  const { protocol } = new URL(url)
  return protocol === "http:" || protocol === "https:" ? url.replace(/\/+$/, "") : undefined
}
