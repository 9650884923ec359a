/**
 * What happened to an order.
 */
import { Effect, Option, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { DeadLetters } from "millrace"
import { Order } from "./Order.ts"
import { OrderPlaced } from "./OrderPlaced.ts"

const decodeOrder = Schema.decodeEffect(Schema.fromJsonString(Order))

export const findOrder = Effect.fnUntraced(function* (id: string) {
  const sql = yield* SqlClient.SqlClient
  const [row] = yield* sql<{ readonly details: string }>`SELECT details FROM orders WHERE id = ${id}`
  // What is in the table was an order when it was written there.
  return row === undefined ? Option.none() : Option.some(yield* Effect.orDie(decodeOrder(row.details)))
})

export const orderStatus = Effect.fnUntraced(function* ({ id, product, quantity }: Order) {
  const sql = yield* SqlClient.SqlClient
  const history = yield* sql<{ readonly at: string; readonly what: string }>`
    SELECT at, what FROM history WHERE order_id = ${id} ORDER BY rowid`
  const [booking] = yield* sql<{ readonly reserved: number }>`SELECT reserved FROM bookings WHERE order_id = ${id}`
  const [sent] = yield* sql`SELECT 1 FROM handled WHERE consumer = 'sms' AND message = ${id}`
  const letter = sent === undefined ? yield* DeadLetters.get(OrderPlaced, "sms", id) : undefined
  return {
    id,
    product,
    quantity,
    sms: sent !== undefined ? "sent" : letter !== undefined ? "dead" : "waiting",
    stock: booking === undefined ? "waiting" : booking.reserved === 1 ? "reserved" : "sold out",
    history
  }
})
