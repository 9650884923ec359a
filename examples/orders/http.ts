/**
 * The orders over HTTP: requests to calls, and what comes of them to responses.
 */
import { Effect, Layer, Option } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { bodyAs, idInPath, refuse, unavailable } from "../shared/http.ts"
import { invoiceOf } from "./Invoices.ts"
import { NewOrder } from "./Order.ts"
import { findOrder, orderStatus } from "./orderStatus.ts"
import { placeOrder } from "./placeOrder.ts"
import { Settings } from "./Settings.ts"

const postOrder = HttpRouter.add(
  "POST",
  "/orders",
  Effect.gen(function* () {
    const newOrder = yield* bodyAs(NewOrder, "an order")
    const { id } = yield* placeOrder(newOrder)
    return HttpServerResponse.jsonUnsafe(
      { id, status: "queued" },
      { status: 202, headers: { location: `/orders/${id}` } }
    )
  }).pipe(Effect.catchTags({ SqlError: unavailable, BrokerError: unavailable }))
)

/** The order that the path names. Fails with the answer where there is none. */
const orderInPath = Effect.gen(function* () {
  const id = yield* idInPath
  const order = yield* findOrder(id)
  return Option.isSome(order) ? order.value : yield* Effect.fail(refuse(404, `There is no order ${id}.`))
})

const getOrder = HttpRouter.add(
  "GET",
  "/orders/:id",
  orderInPath.pipe(
    Effect.flatMap(orderStatus),
    Effect.map((status) => HttpServerResponse.jsonUnsafe(status)),
    Effect.catchTags({ SqlError: unavailable, BrokerError: unavailable })
  )
)

const getInvoice = HttpRouter.add(
  "GET",
  "/orders/:id/invoice",
  orderInPath.pipe(
    Effect.flatMap(invoiceOf),
    Effect.map((invoice) => HttpServerResponse.jsonUnsafe({ invoice })),
    Effect.catchTags({
      SqlError: unavailable,
      NoTaxRate: (error) => Effect.succeed(refuse(422, error.message)),
      PoolFull: () =>
        Effect.map(Settings, ({ invoiceMillis }) => {
          // By then an invoice is done and a place is free.
          const seconds = Math.max(1, Math.ceil(invoiceMillis / 1000))
          return refuse(429, "Too many invoices at the moment.", { "retry-after": String(seconds) })
        }),
      PoolClosed: () => Effect.succeed(refuse(503, "No more invoices: the service is about to stop."))
    })
  )
)

export const orderRoutes = Layer.mergeAll(postOrder, getOrder, getInvoice)
