/**
 * The orders over HTTP: requests to calls, and what comes of them to responses.
 */
import { ByteSize, Effect, Layer, Option, Schema } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { NewOrder } from "./Order.ts"
import { placeOrder } from "./placeOrder.ts"
import { reasonsOf } from "./reasons.ts"
import { Settings } from "./Settings.ts"
import { Statuses } from "./Statuses.ts"

const refuse = (status: number, error: string, headers?: Record<string, string>) =>
  HttpServerResponse.jsonUnsafe({ error }, { status, headers })

const postOrder = HttpRouter.add(
  "POST",
  "/orders",
  Effect.gen(function* () {
    const newOrder = yield* HttpServerRequest.schemaBodyJson(NewOrder, { errors: "all" })
    const { id } = yield* placeOrder(newOrder)
    return HttpServerResponse.jsonUnsafe(
      { id, status: "queued" },
      { status: 202, headers: { location: `/orders/${id}` } }
    )
  }).pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.kibibytes(64)),
    Effect.catchTags({
      SchemaError: (error) =>
        Effect.succeed(
          HttpServerResponse.jsonUnsafe({ error: "This is not an order.", reasons: reasonsOf(error) }, { status: 400 })
        ),
      PoolFull: () =>
        Effect.map(Settings, ({ invoiceMillis }) => {
          // By then an invoice is done and a place is free.
          const seconds = Math.max(1, Math.ceil(invoiceMillis / 1000))
          return refuse(429, "Too many orders at the moment.", { "retry-after": String(seconds) })
        }),
      PoolClosed: () => Effect.succeed(refuse(503, "No more orders: the service is about to stop."))
    }),
    Effect.catchReason("HttpServerError", "RequestParseError", ({ reason }) =>
      Effect.succeed(
        reason === "BodyTooLarge" ? refuse(413, "An order has at most 64 KiB.") : refuse(400, "The body is not JSON.")
      )
    )
  )
)

const getOrder = HttpRouter.add(
  "GET",
  "/orders/:id",
  Effect.gen(function* () {
    const { id } = yield* HttpRouter.schemaPathParams(Schema.Struct({ id: Schema.String }))
    const statuses = yield* Statuses
    return Option.match(yield* statuses.get(id), {
      onNone: () => refuse(404, `There is no order ${id}.`),
      onSome: (status) => HttpServerResponse.jsonUnsafe({ id, ...status })
    })
  })
)

export const routes = Layer.mergeAll(postOrder, getOrder)
