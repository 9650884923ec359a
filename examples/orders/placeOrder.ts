/**
 * Placing an order: the row and the message, or neither.
 */
import { randomUUID } from "node:crypto"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import type { NewOrder, Order } from "./Order.ts"
import { OrderPlaced } from "./OrderPlaced.ts"
import { note } from "./tables.ts"
import { track } from "./tracking.ts"

export const placeOrder = Effect.fnUntraced(function* (newOrder: NewOrder) {
  const sql = yield* SqlClient.SqlClient
  const order: Order = { ...newOrder, id: randomUUID() }
  const place = Effect.gen(function* () {
    yield* sql`INSERT INTO orders ${sql.insert({ id: order.id, details: JSON.stringify(order) })}`
    yield* note(order.id, "placed")
    // Last, for brokers that are no part of the transaction: see `brokers.ts`.
    yield* OrderPlaced.publish(order, { id: order.id })
  })
  yield* sql.withTransaction(place)
  yield* track(order)
  return order
})
