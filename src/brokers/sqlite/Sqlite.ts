/**
 * The embedded broker: messages in an SQLite file, through `node:sqlite`, without a server and without dependencies.
 *
 * **When to use**
 *
 * Use it for one machine, one process or several of them on one file. For several machines use a broker with a server.
 *
 * **Details**
 *
 * `docs/brokers/sqlite.md` says what survives what, how fast the file grows, and what several processes may expect. Publishing
 * inside `sql.withTransaction` of the client that the layer provides is part of that transaction: there is no outbox to run.
 *
 * **Gotchas**
 *
 * The file must be on a local disk: WAL mode does not work on network file systems.
 *
 * @see {@link SqliteClient} for an `SqlClient` on a file without a broker
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql/SqlClient"
import type { Broker } from "../../messaging/Broker.ts"
import { named } from "../../messaging/Broker.ts"
import type { BrokerError } from "../../messaging/BrokerError.ts"
import { open } from "./internal/Driver.ts"
import type { BrokerOptions } from "./internal/Options.ts"
import { checkBroker } from "./internal/Options.ts"

/** What this broker can do. */
export type Abilities = "delay" | "priority" | "order" | "replay" | "browse"

export interface Options<Name extends string = "default"> extends BrokerOptions {
  /** The name under which topics ask for this broker. Default: the broker of the app. */
  readonly name?: Name | undefined
}

/**
 * A broker in a file, and an `SqlClient` on the same file whose transactions take published messages with them. Fails with
 * `Rejected` where the file cannot be used (the folder is missing, no access, no database, damaged, written by a newer
 * version), with `Unavailable` where it stays locked for longer than `lockTimeout`. A wrong option is a defect.
 */
export const layer = <const Name extends string = "default">(
  options: Options<Name>
): Layer.Layer<Broker<Abilities, Name> | SqlClient, BrokerError> =>
  Layer.effectContext(
    Effect.gen(function* () {
      const { name, ...rest } = options
      const { driver, sql } = yield* open(yield* checkBroker("Sqlite.layer", rest))
      const context = Context.make(named(name ?? "default"), driver).pipe(Context.add(SqlClient, sql))
      // The key of every broker of a name is the same; what it can do is in the type alone.
      return context as Context.Context<never> as Context.Context<Broker<Abilities, Name> | SqlClient>
    })
  ).pipe(Layer.provide(Reactivity.layer))
