/** The options of the layer, checked and with their defaults. */

import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { InvalidOption } from "../../../pool/WorkerPool.ts"
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
  const problems: Array<string> = []
  const whole = (name: string, value: number | undefined, fallback: number, most = Number.MAX_SAFE_INTEGER): number => {
    if (value === undefined) return fallback
    if (Number.isInteger(value) && value >= 1 && value <= most) return value
    problems.push(`${name} must be a whole number from 1${most < 1e9 ? ` to ${most}` : ""}, got ${String(value)}`)
    return fallback
  }
  const span = (name: string, value: Duration.Input | undefined, fallback: number): number => {
    if (value === undefined) return fallback
    const millis = Option.map(Duration.fromInput(value), Duration.toMillis)
    if (Option.isSome(millis) && millis.value > 0) return millis.value
    problems.push(`${name} must be a duration of more than zero, such as "5 seconds", got ${String(value)}`)
    return fallback
  }
  const given = Array.isArray(options.url) ? options.url : [options.url]
  const heartbeat = Math.max(1, Math.round(span("heartbeat", options.heartbeat, 10_000) / 1000))
  const urls = given.flatMap((url) => {
    const read = readUrl(Redacted.isRedacted(url) ? Redacted.value(url) : url, heartbeat)
    if (read === undefined) problems.push('url must be one such as "amqp://user:password@host:5672/vhost" or amqps://…')
    return read ?? []
  })
  if (given.length === 0) problems.push("url must not be an empty list")
  const { priorities, queueType = "quorum" } = options
  // JavaScript callers come here too.
  if (queueType !== "quorum" && queueType !== "classic") {
    problems.push(`queueType must be "quorum" or "classic", got ${String(queueType)}`)
  }
  if (priorities !== undefined && queueType === "quorum") {
    problems.push('priorities need queueType: "classic"; quorum queues have none')
  }
  const { order } = options
  if (order !== undefined && order !== true && !Array.isArray(order)) {
    problems.push(`order must be true or a list of groups, got ${String(order)}`)
  }
  if (order !== undefined && priorities !== undefined) {
    problems.push("order and priorities exclude each other: a priority is what lets a message pass others")
  }
  const settings: Settings = {
    urls,
    queueType,
    priorities: priorities === undefined ? undefined : whole("priorities", priorities, 1, 255),
    ordered: order === undefined || order === true ? order : new Set(order),
    maxUnconfirmed: whole("maxUnconfirmed", options.maxUnconfirmed, 1024),
    maxUnconfirmedBytes: whole("maxUnconfirmedBytes", options.maxUnconfirmedBytes, 16 * 1024 * 1024),
    maxMessageBytes: whole("maxMessageBytes", options.maxMessageBytes, 16 * 1024 * 1024),
    connectTimeout: span("connectTimeout", options.connectTimeout, 5_000),
    waitForConnection: span("waitForConnection", options.waitForConnection, 30_000),
    acknowledgementTimeout: span("acknowledgementTimeout", options.acknowledgementTimeout, 30 * 60_000),
    socket: options.socket ?? {}
  }
  return problems.length === 0
    ? Effect.succeed(settings)
    : Effect.die(new InvalidOption({ operation: "RabbitMq.layer", problem: problems.join("\n") }))
}

const readUrl = (url: unknown, heartbeat: number): string | undefined => {
  if (typeof url !== "string" || !URL.canParse(url)) return undefined
  const parsed = new URL(url)
  if ((parsed.protocol !== "amqp:" && parsed.protocol !== "amqps:") || parsed.hostname === "") return undefined
  if (!parsed.searchParams.has("heartbeat")) parsed.searchParams.set("heartbeat", String(heartbeat))
  return parsed.href
}
