/**
 * An `SqlClient` of Effect over `node:sqlite`, without dependencies.
 *
 * **When to use**
 *
 * Use {@link layer} for a database of its own. `Sqlite.layer` provides such a client for the file of the broker, so that what
 * is published inside `sql.withTransaction` is committed or rolled back with it.
 *
 * **Details**
 *
 * The file is in WAL mode. A transaction begins with `BEGIN IMMEDIATE`, so it waits for other writers at its beginning and
 * never fails for them later. Who meets a locked file waits in Effect for up to `lockTimeout`; the event loop goes on.
 *
 * **Gotchas**
 *
 * There is one connection: while a transaction is open, other statements of the process wait for it. Keep transactions short.
 *
 * **Example** (A file of its own)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { mkdtempSync } from "node:fs"
 * import { tmpdir } from "node:os"
 * import { join } from "node:path"
 * import { SqliteClient } from "millrace/sqlite"
 *
 * const filename = join(mkdtempSync(join(tmpdir(), "example-")), "app.db")
 *
 * const program = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`CREATE TABLE orders (id TEXT PRIMARY KEY, total INTEGER)`
 *   yield* sql.withTransaction(sql`INSERT INTO orders ${sql.insert({ id: "o-1", total: 12 })}`)
 *   return (yield* sql`SELECT total FROM orders`).map((row) => row.total)
 * })
 *
 * const totals = await Effect.runPromise(Effect.provide(program, SqliteClient.layer({ filename })))
 * totals // => [12]
 * ```
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { makeClient, open } from "./internal/Client.ts"
import type { ClientOptions } from "./internal/Options.ts"
import { checkClient } from "./internal/Options.ts"

export type { ClientOptions } from "./internal/Options.ts"

/** An `SqlClient` on a file, which is created where it does not exist. A wrong option is a defect. */
export const layer = (options: ClientOptions): Layer.Layer<SqlClient.SqlClient, SqlError> =>
  Layer.effect(
    SqlClient.SqlClient,
    Effect.gen(function* () {
      const settings = yield* checkClient("SqliteClient.layer", options)
      const database = yield* open(settings)
      return yield* makeClient(database, yield* Semaphore.make(1), settings)
    })
  ).pipe(Layer.provide(Reactivity.layer))
