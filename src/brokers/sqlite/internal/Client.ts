/**
 * The `SqlClient` over one connection.
 */

import type { SQLInputValue, StatementSync } from "node:sqlite"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Reactivity from "effect/reactivity/Reactivity"
import type * as Scope from "effect/Scope"
import type * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import { ConnectionError, classifySqliteError, SqlError } from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import { Database } from "./Database.ts"
import { codeOf, isBusy } from "./Failure.ts"
import type { ClientSettings } from "./Options.ts"

/** Statements that stay prepared; those with literals in their text would be without end. */
const mostPrepared = 200
/** Rows of a stream that are read at once. */
const streamed = 128

/** `effect/sql` looks for the result code where other drivers have it. */
const classified = (cause: unknown): unknown => {
  const code = codeOf(cause)
  return code === undefined || !(cause instanceof Error) ? cause : Object.assign(cause, { errno: code })
}

const toError = (operation: string, cause: unknown): SqlError =>
  new SqlError({
    reason: classifySqliteError(classified(cause), { message: `Failed to ${operation}`, operation })
  })

/**
 * Tries again for as long as somebody else has the lock. Nothing has happened where SQLite answers so, except inside of a
 * transaction that has read already: there it is the program's to begin again.
 */
const whileLocked = <A>(
  attempt: Effect.Effect<A, SqlError>,
  lockTimeout: number,
  isOver: () => boolean = () => false
): Effect.Effect<A, SqlError> =>
  Effect.flatMap(Clock.monotonicTimeNanos, (start) => {
    const again = (tries: number): Effect.Effect<A, SqlError> =>
      Effect.catch(attempt, (error) => {
        if (!isBusy(error.reason.cause) || isOver()) return Effect.fail(error)
        return Effect.flatMap(Clock.monotonicTimeNanos, (now) => {
          if (Number(now - start) / 1e6 > lockTimeout) return Effect.fail(error)
          const pause = Math.min(20, 1.5 ** tries) * (0.5 + Math.random())
          return Effect.andThen(Effect.sleep(Duration.millis(pause)), again(tries + 1))
        })
      })
    return again(0)
  })

/** Opens the file; it is closed with the scope. */
export const open = ({
  filename,
  lockTimeout,
  synchronous
}: ClientSettings): Effect.Effect<Database, SqlError, Scope.Scope> =>
  Effect.acquireRelease(
    whileLocked(
      Effect.try({
        try: () => new Database(filename, synchronous),
        catch: (cause) => toError(`open ${filename} (${cause instanceof Error ? cause.message : String(cause)})`, cause)
      }),
      lockTimeout
    ),
    (database) => Effect.sync(() => database.close()),
    { interruptible: true }
  )

type Mode = "rows" | "values" | "raw"

export const makeClient = (
  database: Database,
  semaphore: Semaphore.Semaphore,
  { lockTimeout }: ClientSettings
): Effect.Effect<SqlClient.SqlClient, never, Reactivity.Reactivity> => {
  const { db } = database
  const prepared = new Map<string, StatementSync>()

  const prepare = (sql: string): StatementSync => {
    const known = prepared.get(sql)
    const statement = known ?? db.prepare(sql)
    // The youngest stand last.
    if (known !== undefined) prepared.delete(sql)
    prepared.set(sql, statement)
    const [oldest] = prepared.keys()
    if (prepared.size > mostPrepared && oldest !== undefined) prepared.delete(oldest)
    return statement
  }

  const once = (
    prepare: (sql: string) => StatementSync,
    sql: string,
    params: ReadonlyArray<unknown>,
    mode: Mode
  ): Effect.Effect<ReadonlyArray<unknown>, SqlError> =>
    Effect.withFiber((fiber) => {
      try {
        const statement = prepare(sql)
        statement.setReadBigInts(Context.get(fiber.context, SqlClient.SafeIntegers))
        statement.setReturnArrays(mode === "values")
        // What is no value of SQLite is refused by it, with a sentence.
        const values = params as ReadonlyArray<SQLInputValue>
        if (statement.columns().length > 0) return Effect.succeed(statement.all(...values))
        const result = statement.run(...values)
        // `executeRaw` answers what the driver says, whatever that is.
        return Effect.succeed(mode === "raw" ? (result as unknown as ReadonlyArray<unknown>) : [])
      } catch (cause) {
        return Effect.fail(toError("execute statement", cause))
      }
    })

  const run = (
    prepare: (sql: string) => StatementSync,
    sql: string,
    params: ReadonlyArray<unknown>,
    mode: Mode
    // biome-ignore lint/suspicious/noExplicitAny: the rows of a Connection are `any`
  ): Effect.Effect<any, SqlError> => whileLocked(once(prepare, sql, params, mode), lockTimeout, () => db.isTransaction)

  const unprepared = (sql: string) => db.prepare(sql)

  const connection: Connection = {
    execute: (sql, params, transform) =>
      transform === undefined
        ? run(prepare, sql, params, "rows")
        : Effect.map(run(prepare, sql, params, "rows"), transform),
    executeRaw: (sql, params) => run(prepare, sql, params, "raw"),
    executeValues: (sql, params) => run(prepare, sql, params, "values"),
    executeValuesUnprepared: (sql, params) => run(unprepared, sql, params, "values"),
    executeUnprepared: (sql, params, transform) =>
      transform === undefined
        ? run(unprepared, sql, params, "rows")
        : Effect.map(run(unprepared, sql, params, "rows"), transform),
    executeStream: (sql, params, transform) =>
      Stream.unwrap(
        Effect.acquireRelease(
          Effect.try({
            // A statement of its own: another run of the same SQL would begin it anew.
            try: () => db.prepare(sql).iterate(...(params as ReadonlyArray<SQLInputValue>)),
            catch: (cause) => toError("execute statement", cause)
          }),
          // Left in the middle it would hold on to the file as it was, and no transaction could begin.
          (rows) => Effect.sync(() => rows.return?.())
        ).pipe(Effect.map((rows) => Stream.fromIteratorSucceed(rows, streamed)))
      ).pipe(
        Stream.catchDefect((cause) => Stream.fail(toError("read the rows of a statement", cause))),
        (rows) =>
          transform === undefined
            ? rows
            : Stream.mapArray(rows, ([first, ...rest]) => {
                // A transformation answers as many rows as it was given.
                const [one, ...others] = transform([first, ...rest])
                return [one ?? first, ...others]
              })
      )
  }

  const commit = (conn: Connection) =>
    Effect.suspend(() =>
      database.isInPlace()
        ? Effect.asVoid(conn.execute("COMMIT", [], undefined))
        : Effect.fail(
            new SqlError({
              reason: new ConnectionError({
                message: `${database.filename} was deleted or replaced while it was open: the transaction is rolled back`,
                operation: "commit",
                cause: undefined
              })
            })
          )
    )

  return SqlClient.make({
    ...SqlClient.makeSqliteAcquirers({
      connection: Effect.succeed(connection),
      semaphore,
      isTransaction: () => db.isTransaction
    }),
    driver: "node-sqlite",
    compiler: Statement.makeCompilerSqlite(),
    prepareTransactionControls: true,
    beginTransaction: "BEGIN IMMEDIATE",
    commit,
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`,
    spanAttributes: [["db.system.name", "sqlite"]]
  })
}
