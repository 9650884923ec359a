/** The options of the layer, checked and with their defaults. */

import type * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Redacted from "effect/Redacted"
import { isObject, OptionReader } from "../../OptionReader.ts"
import type { Options, Order } from "../Options.ts"

export interface Settings {
  /** Without a heartbeat of their own they have that of the options. */
  readonly urls: ReadonlyArray<string>
  readonly queueType: "quorum" | "classic"
  readonly priorities: number | undefined
  /** Which groups can be consumed in order by key; none where it was not asked for. */
  readonly ordered: true | ReadonlySet<string> | undefined
  readonly maxUnconfirmed: number
  readonly maxUnconfirmedBytes: number
  readonly maxMessageBytes: number
  /** Milliseconds. */
  readonly connectTimeout: number
  readonly waitForConnection: number
  readonly acknowledgementTimeout: number
  readonly socket: Readonly<Record<string, unknown>>
}

/** A wrong option is a defect that says what is allowed. */
export const check = (options: Options<string, number | undefined, Order | undefined>): Effect.Effect<Settings> => {
  const reader = new OptionReader()
  const { problems } = reader
  const given = Array.isArray(options.url) ? options.url : [options.url]
  const heartbeat = Math.max(1, Math.round(reader.span("heartbeat", options.heartbeat, 10_000) / 1000))
  const urls = given.flatMap((url) => {
    const read = readUrl(Redacted.isRedacted(url) ? Redacted.value(url) : url, heartbeat)
    if (read === undefined) problems.push('url must be one such as "amqp://user:password@host:5672/vhost" or amqps://…')
    return read ?? []
  })
  if (given.length === 0) problems.push("url must not be an empty list")
  const { priorities, queueType = "quorum" } = options
  // JavaScript callers come here too.
  if (queueType !== "quorum" && queueType !== "classic") {
    problems.push(`queueType must be "quorum" or "classic", got ${format(queueType)}`)
  }
  if (priorities !== undefined && queueType === "quorum") {
    problems.push('priorities need queueType: "classic"; quorum queues have none')
  }
  const { order } = options
  if (order !== undefined && order !== true && !Array.isArray(order)) {
    problems.push(`order must be true or a list of groups, got ${format(order)}`)
  }
  if (order !== undefined && priorities !== undefined) {
    problems.push("order and priorities exclude each other: a priority is what lets a message pass others")
  }
  const settings: Settings = {
    urls,
    queueType,
    priorities: priorities === undefined ? undefined : reader.whole("priorities", priorities, 1, { most: 255 }),
    ordered: Array.isArray(order) ? new Set(order) : order === true || undefined,
    maxUnconfirmed: reader.whole("maxUnconfirmed", options.maxUnconfirmed, 1024),
    maxUnconfirmedBytes: reader.whole("maxUnconfirmedBytes", options.maxUnconfirmedBytes, 16 * 1024 * 1024),
    maxMessageBytes: reader.whole("maxMessageBytes", options.maxMessageBytes, 16 * 1024 * 1024),
    connectTimeout: reader.span("connectTimeout", options.connectTimeout, 5_000),
    waitForConnection: reader.span("waitForConnection", options.waitForConnection, 30_000),
    acknowledgementTimeout: reader.span("acknowledgementTimeout", options.acknowledgementTimeout, 30 * 60_000),
    socket: reader.kind("socket", options.socket, "options of a connection", isObject) ?? {}
  }
  return reader.result("RabbitMq.layer", settings)
}

const readUrl = (url: unknown, heartbeat: number): string | undefined => {
  if (typeof url !== "string" || !URL.canParse(url)) return undefined
  const parsed = new URL(url)
  if ((parsed.protocol !== "amqp:" && parsed.protocol !== "amqps:") || parsed.hostname === "") return undefined
  if (!parsed.searchParams.has("heartbeat")) parsed.searchParams.set("heartbeat", String(heartbeat))
  return parsed.href
}
