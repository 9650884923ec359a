/**
 * Takes what was ordered from the stock. A message, since an order that was accepted must be booked, whatever dies; in order
 * by product where the broker keeps one.
 */
import { Effect, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import type { Envelope } from "millrace"
import { Consumer } from "millrace"
import { reports } from "../shared/reports.ts"
import type { Order } from "./Order.ts"
import { afterKill, OrderPlaced } from "./OrderPlaced.ts"
import { once } from "./once.ts"
import { note } from "./tables.ts"

const book = Effect.fnUntraced(function* ({ id, product, quantity }: Order) {
  const sql = yield* SqlClient.SqlClient
  const taken = yield* sql`UPDATE stock SET available = available - ${quantity}
    WHERE product = ${product} AND available >= ${quantity} RETURNING product`
  const reserved = taken.length > 0
  yield* sql`INSERT INTO bookings ${sql.insert({ order_id: id, product, quantity, reserved: reserved ? 1 : 0 })}`
  yield* note(id, reserved ? `stock: ${quantity} reserved` : "stock: sold out")
})

const options = {
  group: "stock",
  lease: afterKill,
  onError: {
    SqlError: Consumer.retry(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("1 minute")]))
  },
  onShutdown: reports.consumer
} as const

const handle = (order: Order, message: Envelope.Envelope) => once("stock", message, book(order))

/** Who orders first gets the last one. */
export const stockConsumer = Consumer.layer(OrderPlaced, handle, { ...options, order: "key" })

/**
 * For a broker without order: nothing is booked twice or sold that is not there, but of two orders for the last one the second
 * may get it.
 */
export const stockInAnyOrder = Consumer.layer(OrderPlaced, handle, options)
