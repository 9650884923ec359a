/**
 * One connection to a database file, and its prepared statements.
 *
 * `node:sqlite` is synchronous: a busy wait in C would stop every fiber of the process, lease renewal included. So the busy
 * timeout is 0, and those who meet a locked file wait in Effect.
 */
import { accessSync, constants, statSync } from "node:fs"
import { resolve } from "node:path"
import type { SQLInputValue, StatementSync } from "node:sqlite"
import { DatabaseSync } from "node:sqlite"
import type { Synchronous } from "./Options.ts"

/** A prepared statement; its rows are arrays, typed by who wrote the SQL beside the type. */
export class Statement<Row extends ReadonlyArray<unknown>> {
  private readonly statement: StatementSync

  constructor(db: DatabaseSync, sql: string) {
    this.statement = db.prepare(sql)
    this.statement.setReturnArrays(true)
  }

  get(...params: ReadonlyArray<SQLInputValue>): Row | undefined {
    // The columns are those of the SQL, which its author has typed.
    return this.statement.get(...params) as unknown as Row | undefined
  }

  all(...params: ReadonlyArray<SQLInputValue>): ReadonlyArray<Row> {
    return this.statement.all(...params) as unknown as ReadonlyArray<Row>
  }

  iterate(...params: ReadonlyArray<SQLInputValue>): Iterable<Row> {
    return this.statement.iterate(...params) as unknown as Iterable<Row>
  }

  /** Answers how many rows were changed. */
  run(...params: ReadonlyArray<SQLInputValue>): number {
    return Number(this.statement.run(...params).changes)
  }
}

export class Database {
  readonly db: DatabaseSync
  readonly filename: string
  private readonly statements = new Map<string, Statement<ReadonlyArray<unknown>>>()
  private readonly identity: string | undefined

  /** Throws what `node:sqlite` throws, also for a file that is locked at the moment. */
  constructor(filename: string, synchronous: Synchronous) {
    this.filename = resolve(filename)
    this.db = new DatabaseSync(this.filename, { timeout: 0 })
    try {
      this.db.exec("PRAGMA journal_mode = WAL")
      this.db.exec(`PRAGMA synchronous = ${synchronous}`)
      // 16 MiB, so that the indexes of a long backlog are not read again for every claim.
      this.db.exec("PRAGMA cache_size = -16384")
      // What a burst has made of the WAL is given back when it has been written to the file.
      this.db.exec("PRAGMA journal_size_limit = 67108864")
      // SQLite opens what it may only read, and says so at the first write.
      accessSync(this.filename, constants.W_OK)
      this.identity = identityOf(this.filename)
    } catch (error) {
      this.db.close()
      throw error
    }
  }

  /** The statement of this SQL, prepared once. The row type is that of its columns. */
  sql<Row extends ReadonlyArray<unknown>>(sql: string): Statement<Row> {
    let statement = this.statements.get(sql)
    if (statement === undefined) {
      statement = new Statement(this.db, sql)
      this.statements.set(sql, statement)
    }
    // Each SQL text is used with one type of row.
    return statement as unknown as Statement<Row>
  }

  /**
   * Finds rows and changes each by its primary key; answers how many there were. In one statement the plan would be SQLite's to
   * choose, and with the statistics of a smaller table it goes through all of a large one.
   */
  change(find: string, params: ReadonlyArray<SQLInputValue>, change: string): number {
    const found = this.sql<ReadonlyArray<SQLInputValue>>(find).all(...params)
    const statement = this.sql(change)
    for (const key of found) statement.run(...key)
    return found.length
  }

  /** Whether the file at this path is the one that was opened; SQLite writes on into a file that was deleted. */
  isInPlace(): boolean {
    return identityOf(this.filename) === this.identity
  }

  close(): void {
    this.statements.clear()
    this.db.close()
  }
}

/** Which file it is; none where that cannot be told, as for a folder that may not be looked into. */
const identityOf = (filename: string): string | undefined => {
  try {
    const stat = statSync(filename, { throwIfNoEntry: false })
    return stat && `${stat.dev}:${stat.ino}`
  } catch {
    return undefined
  }
}
