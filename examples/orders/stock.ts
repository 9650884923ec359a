/**
 * Takes what was ordered from the stock. A message, since an order that was accepted must be booked, whatever dies; in order
 * by product, since who orders first gets the last one.
 */
import { Effect, Schedule } from "effect"
import { SqlClient } from "effect/sql"
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

export const stockConsumer = Consumer.layer(OrderPlaced, (order, message) => once("stock", message, book(order)), {
  group: "stock",
  order: "key",
  lease: afterKill,
  onError: {
    SqlError: Consumer.retry(Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("1 minute")]))
  },
  onShutdown: reports.consumer
})
