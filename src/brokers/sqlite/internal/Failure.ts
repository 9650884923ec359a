/**
 * What SQLite says, as a `BrokerError` that tells a person what to do.
 */
import { existsSync, statSync } from "node:fs"
import { dirname } from "node:path"
import type { About, BrokerError } from "../../../messaging/BrokerError.ts"
import { errorsOf } from "../../../messaging/BrokerError.ts"

export type { About }

export const system = "sqlite"

export const { rejected, unavailable } = errorsOf(system)

/** The extended result code of an error of `node:sqlite`. */
export const codeOf = (cause: unknown): number | undefined =>
  cause instanceof Error && "errcode" in cause && typeof cause.errcode === "number" ? cause.errcode : undefined

/** The result codes of https://sqlite.org/rescode.html that are told apart. */
const Code = {
  perm: 3,
  busy: 5,
  locked: 6,
  readonly: 8,
  io: 10,
  corrupt: 11,
  full: 13,
  cantOpen: 14,
  tooBig: 18,
  auth: 23,
  notADatabase: 26
} as const

/** Somebody else holds the write lock; trying again later may succeed. */
export const isBusy = (cause: unknown): boolean => {
  const code = codeOf(cause)
  return code !== undefined && ((code & 0xff) === Code.busy || (code & 0xff) === Code.locked)
}

export const moved = (about: About, filename: string): BrokerError =>
  unavailable(
    about,
    `${filename} was deleted or replaced while it was open, so what was just written is not in it. Put the file back, or restart this process to use the new one.`
  )

export const closed = (about: About, filename: string): BrokerError =>
  unavailable(about, `The broker on ${filename} is closed: use it inside the scope that its layer is provided to.`)

export const locked = (about: About, filename: string, millis: number, cause?: unknown): BrokerError =>
  unavailable(
    about,
    `${filename} has been locked for writing for ${Math.round(millis)} ms, by another process or by an open transaction of this one. Keep transactions short, or raise lockTimeout.`,
    cause
  )

/** The error for what `node:sqlite` threw. */
export const fromCause = (about: About, filename: string, cause: unknown): BrokerError => {
  const code = codeOf(cause)
  const said = cause instanceof Error ? cause.message : String(cause)
  if (isNoAccess(cause)) return denied(about, filename, said, cause)
  switch (code === undefined ? undefined : code & 0xff) {
    case Code.busy:
    case Code.locked:
      return unavailable(about, `${filename} is locked by another process: try again later.`, cause)
    case Code.full:
      return rejected(
        about,
        "Full",
        `There is no room for more in ${filename} (${said}). Free disk space, or let consumers work off the backlog.`,
        cause
      )
    case Code.corrupt:
      return rejected(
        about,
        "Corrupt",
        `${filename} is damaged (${said}). Stop all processes that use it, then restore a backup, or save what can be read with "sqlite3 ${filename} .recover".`,
        cause
      )
    case Code.notADatabase:
      return rejected(
        about,
        "Corrupt",
        `${filename} is not an SQLite database. Choose another filename, or restore a backup.`,
        cause
      )
    case Code.readonly:
    case Code.perm:
    case Code.auth:
      return denied(about, filename, said, cause)
    case Code.cantOpen:
      return cannotOpen(about, filename, said, cause)
    case Code.io:
      return unavailable(
        about,
        `Reading or writing ${filename} failed (${said}), so whether it happened is unknown. Check the disk and its free space.`,
        cause
      )
    case Code.tooBig:
      return rejected(about, "TooLarge", `SQLite holds at most 1 GB in one row (${said}).`, cause)
    default:
      return rejected(about, "Refused", `${filename}: ${said}`, cause)
  }
}

/** What the file system says, where it was asked before SQLite. */
const isNoAccess = (cause: unknown): boolean =>
  cause instanceof Error && "code" in cause && (cause.code === "EACCES" || cause.code === "EROFS")

const denied = (about: About, filename: string, said: string, cause: unknown): BrokerError =>
  rejected(
    about,
    "Denied",
    `${filename} cannot be written (${said}). This process needs write access to the file and to its folder, where SQLite keeps ${filename}-wal and ${filename}-shm.`,
    cause
  )

const cannotOpen = (about: About, filename: string, said: string, cause: unknown): BrokerError => {
  const folder = dirname(filename)
  if (!existsSync(folder)) {
    return rejected(
      about,
      "Refused",
      `The folder ${folder} does not exist: create it, or choose another filename.`,
      cause
    )
  }
  if (statSync(filename, { throwIfNoEntry: false })?.isDirectory() === true) {
    return rejected(about, "Refused", `${filename} is a folder: choose the name of a file.`, cause)
  }
  return rejected(
    about,
    "Denied",
    `${filename} cannot be opened (${said}). This process needs write access to it and to its folder.`,
    cause
  )
}
