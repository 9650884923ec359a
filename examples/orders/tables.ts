/**
 * The tables of the program, beside those of the broker.
 */
import { DateTime, Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"

/** What is there before the first order. */
export const initialStock = { kettle: 10_000, lamp: 10_000, chair: 10 } as const

export const tables = Layer.effectDiscard(
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    const create = Effect.gen(function* () {
      yield* sql`CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, details TEXT NOT NULL)`
      yield* sql`CREATE TABLE IF NOT EXISTS history (order_id TEXT NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL)`
      yield* sql`CREATE INDEX IF NOT EXISTS history_of_order ON history (order_id)`
      yield* sql`CREATE TABLE IF NOT EXISTS stock (product TEXT PRIMARY KEY, available INTEGER NOT NULL)`
      for (const [product, available] of Object.entries(initialStock)) {
        yield* sql`INSERT INTO stock ${sql.insert({ product, available })} ON CONFLICT DO NOTHING`
      }
      // Deliberately without a unique order: a booking that is made twice would be seen, not hidden.
      yield* sql`CREATE TABLE IF NOT EXISTS bookings (
        order_id TEXT NOT NULL, product TEXT NOT NULL, quantity INTEGER NOT NULL, reserved INTEGER NOT NULL)`
      yield* sql`CREATE INDEX IF NOT EXISTS booking_of_order ON bookings (order_id)`
      yield* sql`CREATE TABLE IF NOT EXISTS handled (
        consumer TEXT NOT NULL, message TEXT NOT NULL, PRIMARY KEY (consumer, message))`
    })
    yield* sql.withTransaction(create)
  })
)

/** Adds a line to what is known of an order. */
export const note = Effect.fnUntraced(function* (orderId: string, what: string) {
  const sql = yield* SqlClient.SqlClient
  const at = DateTime.formatIso(yield* DateTime.now)
  yield* sql`INSERT INTO history ${sql.insert({ order_id: orderId, at, what })}`
})
