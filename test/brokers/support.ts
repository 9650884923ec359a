/** What the tests of drivers share. */
import { Effect } from "effect"
import type { Driver, Envelope } from "millrace"
import { Broker } from "millrace"

/** The driver that a layer provides. */
export const driver: Effect.Effect<Driver.Driver, never, Broker.Broker> = Effect.map(Broker.Broker, (driver) => driver)

export const envelope = (id: string, fields: Partial<Envelope.Envelope> = {}): Envelope.Envelope => ({
  id,
  topic: "t",
  source: "//test",
  key: undefined,
  version: 1,
  timestamp: 0,
  contentType: "application/json",
  attempt: 1,
  traceparent: undefined,
  tracestate: undefined,
  correlationId: undefined,
  headers: {},
  history: undefined,
  death: undefined,
  replays: 0,
  ...fields
})

/** A message for the topic `t`, with its id as the payload. */
export const message = (
  id: string,
  fields: Partial<Driver.OutgoingMessage> & { readonly key?: string; readonly timestamp?: number } = {}
): Driver.OutgoingMessage => {
  const { key, timestamp = 0, ...rest } = fields
  return {
    envelope: envelope(id, { key, timestamp }),
    body: new TextEncoder().encode(id),
    destination: { _tag: "Topic", topic: "t" },
    ...rest
  }
}

export const subscribe = (driver: Driver.Driver, options: Partial<Driver.SubscribeOptions> = {}) =>
  driver.subscribe({ topic: "t", group: "g", credit: 100, lease: 30_000, order: "none", ...options })

export const idOf = (delivery: Driver.Delivery): string => delivery.message.envelope.id

export const take = (subscription: Driver.Subscription, max = 100) =>
  Effect.map(subscription.take(max, Number.MAX_SAFE_INTEGER), (deliveries) => deliveries.map(idOf))

/** One delivery. */
export const takeOne = (subscription: Driver.Subscription) =>
  Effect.flatMap(subscription.take(1, Number.MAX_SAFE_INTEGER), ([delivery]) =>
    delivery === undefined ? Effect.die(new Error("take answered nothing")) : Effect.succeed(delivery)
  )
