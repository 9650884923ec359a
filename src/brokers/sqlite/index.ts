/**
 * The embedded broker on SQLite.
 */
export * as Sqlite from "./Sqlite.ts"
export * as SqliteClient from "./SqliteClient.ts"
