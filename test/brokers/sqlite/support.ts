/** What the tests of the driver share: files, envelopes, and what a consumer does. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Context, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { Sqlite } from "millrace/sqlite"
import { Broker } from "../../../src/messaging/Broker.ts"
import type {
  Delivery,
  Driver,
  OutgoingMessage,
  SubscribeOptions,
  Subscription
} from "../../../src/messaging/Driver.ts"
import type { Envelope } from "../../../src/messaging/Envelope.ts"

/** A folder that is removed with the scope. */
export const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-sqlite-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
)

export const filename = Effect.map(folder, (path) => join(path, "broker.db"))

export interface Opened {
  readonly driver: Driver
  readonly sql: SqlClient.SqlClient
  readonly filename: string
}

/** A broker in the scope, on a file of its own unless one is given. */
export const open = (options: Partial<Sqlite.Options> = {}) =>
  Effect.gen(function* () {
    const path = options.filename ?? (yield* filename)
    const context = yield* Layer.build(Sqlite.layer({ ...options, filename: path }))
    return { driver: Context.get(context, Broker), sql: Context.get(context, SqlClient.SqlClient), filename: path }
  })

let count = 0

export const envelope = (topic: string, more: Partial<Envelope> = {}): Envelope => ({
  id: `m-${++count}`,
  topic,
  source: "test",
  key: undefined,
  version: 1,
  timestamp: 1_700_000_000_000 + count,
  contentType: "application/json",
  attempt: 1,
  traceparent: undefined,
  tracestate: undefined,
  correlationId: undefined,
  headers: {},
  history: undefined,
  death: undefined,
  replays: 0,
  ...more
})

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export interface MessageOptions extends Partial<Omit<OutgoingMessage, "envelope" | "body">> {
  readonly envelope?: Partial<Envelope>
}

export const message = (topic: string, text: string, options: MessageOptions = {}): OutgoingMessage => ({
  destination: { _tag: "Topic", topic },
  ...options,
  envelope: envelope(topic, options.envelope),
  body: encoder.encode(text)
})

export const textOf = (delivery: Delivery): string => decoder.decode(delivery.message.body)

export const subscribe = (driver: Driver, options: Partial<SubscribeOptions> = {}) =>
  driver.subscribe({ topic: "t", group: "g", credit: 100, lease: 30_000, order: "none", ...options })

export const take = (subscription: Subscription, max = 100) => subscription.take(max, 1_000_000)

/** What can be had within a moment of real time, when nothing more comes. */
export const drain = (subscription: Subscription, max = 100): Effect.Effect<ReadonlyArray<Delivery>, unknown> =>
  Effect.map(Effect.timeoutOption(take(subscription, max), "30 millis"), (taken) =>
    taken._tag === "Some" ? taken.value : []
  )

export const acknowledge = (subscription: Subscription, deliveries: ReadonlyArray<Delivery>) =>
  subscription.settle(deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery })))

/** Takes and acknowledges until so many have come. */
export const consume = Effect.fnUntraced(function* (subscription: Subscription, count: number) {
  const all: Array<Delivery> = []
  while (all.length < count) {
    const taken = yield* take(subscription)
    all.push(...taken)
    yield* acknowledge(subscription, taken)
  }
  return all
})
