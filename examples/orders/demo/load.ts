/**
 * Customers who order one thing after the other, over HTTP, until nobody answers any more.
 */
import { Effect, Random, Schedule, Schema } from "effect"
import { HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"
import type { NewOrder } from "../Order.ts"

const randomOrder = Effect.gen(function* () {
  const order: NewOrder = {
    email: "ada@example.com",
    // Its last digit says how the gateway treats it.
    phone: `+4917${yield* Random.nextIntBetween(10_000_000, 99_999_999)}`,
    country: "DE",
    product: yield* Random.choice(["kettle", "lamp", "chair"] as const),
    quantity: yield* Random.nextIntBetween(1, 3)
  }
  return order
})

const queued = HttpClientResponse.schemaBodyJson(Schema.Struct({ id: Schema.String, status: Schema.Literal("queued") }))

const customer = Effect.fnUntraced(function* (url: string, accepted: Map<string, NewOrder>) {
  const order = yield* randomOrder
  const request = HttpClientRequest.post(`${url}/orders`).pipe(HttpClientRequest.bodyJsonUnsafe(order))
  const response = yield* HttpClient.execute(request)
  const { id } = yield* queued(response)
  accepted.set(id, order)
})

/** Notes in `accepted` what was answered with "queued". */
export const orderUntilNobodyAnswers = (url: string, accepted: Map<string, NewOrder>, customers: number) =>
  customer(url, accepted).pipe(
    Effect.repeat(Schedule.spaced("20 millis")),
    Effect.ignore,
    Effect.replicateEffect(customers, { concurrency: "unbounded", discard: true })
  )
