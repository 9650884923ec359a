/**
 * The broker: chosen here, by name, and known nowhere else. One more is one more line.
 */
import { Effect, Layer } from "effect"
import type { SqlClient } from "effect/sql"
import type { Broker } from "millrace"
import { DeadLetters } from "millrace"
import { Kafka } from "millrace/kafka"
import { Nsq } from "millrace/nsq"
import { RabbitMq } from "millrace/rabbitmq"
import { Sqlite, SqliteClient } from "millrace/sqlite"
import { Settings } from "./Settings.ts"

/** Dead letters that can be listed and replayed, with what is asked of the broker beside; and a database. */
export type Needed<Can extends Broker.Ability = never> = Broker.Broker<Can | "browse"> | SqlClient.SqlClient

const withSettings = <A, E, R>(layer: (settings: Settings["Service"]) => Layer.Layer<A, E, R>) =>
  Layer.unwrap(Effect.map(Settings, layer))

/** Beside a broker with a server: the tables, */
const tables = withSettings(({ database }) => SqliteClient.layer({ filename: database }))
/** and in the same file the dead letters of one that cannot show its own. */
const letters = withSettings(({ database }) => Sqlite.layer({ filename: database }))

/**
 * With SQLite, tables and messages are in one file, and an order and its message are written in one transaction.
 *
 * A broker with a server stands beside a database. The code stays the same, one promise changes: `placeOrder` then publishes
 * before the database commits, and a crash between the two leaves a message of an order that does not exist (nobody was told
 * "queued"). Never the other way round: no order that was answered is without its message.
 *
 * NSQ changes one more: it keeps no order, so with it a consumer that asks for order does not compile (see `main.ts`).
 */
export const brokers = {
  sqlite: withSettings(({ database }) => Sqlite.layer({ filename: database })),
  kafka: Layer.merge(
    withSettings(({ kafka }) => Kafka.layer({ brokers: kafka, createTopics: { partitions: 4, replication: 1 } })),
    tables
  ),
  rabbitmq: Layer.merge(
    DeadLetters.emulate(
      withSettings(({ rabbitmq }) => RabbitMq.layer({ url: rabbitmq, order: ["stock"] })),
      letters
    ),
    tables
  ),
  nsq: Layer.merge(
    DeadLetters.emulate(
      withSettings(({ nsq }) => Nsq.layer({ lookupd: nsq })),
      letters
    ),
    tables
  )
} satisfies Record<string, Layer.Layer<Needed, unknown, Settings>>
