/**
 * Taking an event: for each subscriber of this moment a message, all in one transaction.
 */
import { randomUUID } from "node:crypto"
import { DateTime, Effect, Layer, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Delivery } from "./Delivery.ts"
import { Subscribers } from "./Subscribers.ts"

/** The body of `POST /events`. Whoever gives an id can send it again, and it is delivered once. */
export const NewEvent = Schema.Struct({
  id: Schema.optionalKey(Schema.String.check(Schema.isPattern(/^[\w.:-]{1,100}$/))),
  type: Schema.NonEmptyString,
  data: Schema.Json
})
export type NewEvent = typeof NewEvent.Type

const remembered = { days: 30 }

/** The ids of events, for 30 days: what was taken is not taken again. */
export const eventsTable = Layer.effectDiscard(
  Effect.gen(function* () {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, at TEXT NOT NULL)`
    const forget = Effect.gen(function* () {
      const since = DateTime.formatIso(DateTime.subtract(yield* DateTime.now, remembered))
      yield* sql`DELETE FROM events WHERE at < ${since}`
    })
    yield* forget.pipe(
      Effect.catch((error) => Effect.logWarning("Old events could not be forgotten", error)),
      Effect.repeat(Schedule.spaced("1 hour")),
      Effect.forkScoped
    )
  })
)

/** Answers when the event is safe: it will reach each subscriber, or its dead letters. */
export const takeEvent = Effect.fnUntraced(function* ({ data, id = randomUUID(), type }: NewEvent) {
  const sql = yield* SqlClient.SqlClient
  const subscribers = yield* Subscribers
  const timestamp = DateTime.formatIso(yield* DateTime.now)
  const take = Effect.gen(function* () {
    const taken =
      yield* sql`INSERT INTO events ${sql.insert({ id, at: timestamp })} ON CONFLICT DO NOTHING RETURNING id`
    if (taken.length === 0) return { id, duplicate: true, subscribers: 0 }
    const body = JSON.stringify({ type, timestamp, data })
    const all = yield* subscribers.list
    yield* Delivery.publishAll(all.map(({ id: subscriber }) => ({ subscriber, event: id, body })))
    return { id, duplicate: false, subscribers: all.length }
  })
  return yield* sql.withTransaction(take)
})
