/**
 * The broker: chosen here, by name, and known nowhere else. One more is one more line.
 */
import { Effect, Layer } from "effect"
import type { SqlClient } from "effect/sql"
import type { Broker } from "millrace"
import { Kafka } from "millrace/kafka"
import { Sqlite, SqliteClient } from "millrace/sqlite"
import { Settings } from "./Settings.ts"

/** What this program asks of its broker: orders of one product in order, and dead letters that can be listed and replayed. */
type Needed = Broker.Broker<"order" | "browse"> | SqlClient.SqlClient

/**
 * With SQLite, tables and messages are in one file, and an order and its message are written in one transaction.
 *
 * A broker with a server stands beside a database. The code stays the same, one promise changes: `placeOrder` then publishes
 * before the database commits, and a crash between the two leaves a message of an order that does not exist (nobody was told
 * "queued"). Never the other way round: no order that was answered is without its message.
 */
export const brokers = {
  sqlite: Layer.unwrap(Effect.map(Settings, ({ database }) => Sqlite.layer({ filename: database }))),
  kafka: Layer.unwrap(
    Effect.map(Settings, ({ database, kafka }) =>
      Layer.merge(
        Kafka.layer({ brokers: kafka, createTopics: { partitions: 4, replication: 1 } }),
        SqliteClient.layer({ filename: database })
      )
    )
  )
} satisfies Record<string, Layer.Layer<Needed, unknown, Settings>>

export type BrokerName = keyof typeof brokers

// `Object.keys` does not tell which.
export const brokerNames = Object.keys(brokers) as ReadonlyArray<BrokerName>
