/**
 * Once for each message, although messages come at least once.
 */
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import type { Envelope } from "millrace"

/**
 * Does the work in a transaction that also notes the message as handled, so both happen or neither. When the message comes
 * again (the process died before it could acknowledge), the note is there and nothing is done.
 *
 * It is for work in the database. What goes elsewhere, such as an SMS, needs the help of who is there: see `sms.ts`.
 */
export const once = Effect.fnUntraced(function* <E, R>(
  consumer: string,
  message: Envelope.Envelope,
  work: Effect.Effect<unknown, E, R>
) {
  const sql = yield* SqlClient.SqlClient
  const handle = Effect.gen(function* () {
    const noted = yield* sql`INSERT INTO handled ${sql.insert({ consumer, message: message.id })}
      ON CONFLICT DO NOTHING RETURNING message`
    if (noted.length > 0) yield* work
  })
  yield* sql.withTransaction(handle)
})
