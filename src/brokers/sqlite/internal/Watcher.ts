/**
 * Notices what other processes (and other connections of this one) write to the file.
 *
 * Every commit writes to the WAL, and the system tells who watches it; that costs nothing while nothing happens. It tells
 * before the commit is visible (the pages are written, then synchronised, then published), so the look after it is repeated
 * some times. Where watching does not work, the broker's poll is what remains.
 */
import type { FSWatcher } from "node:fs"
import { watch } from "node:fs"
import type { Database } from "./Database.ts"

/** Milliseconds after an event at which the file is looked at again, unless a change was seen. */
const looks = [1, 1, 2, 4, 8, 16, 32]

export class Watcher {
  private readonly database: Database
  /** Whether anybody wants to know at the moment. */
  private readonly isWanted: () => boolean
  private readonly onChange: () => void
  private watcher: FSWatcher | undefined = undefined
  private timer: NodeJS.Timeout | undefined = undefined
  private looked = 0
  private version = -1

  constructor(database: Database, isWanted: () => boolean, onChange: () => void) {
    this.database = database
    this.isWanted = isWanted
    this.onChange = onChange
    this.version = this.read()
    try {
      this.watcher = watch(`${database.filename}-wal`, { persistent: false }, () => this.event())
      this.watcher.on("error", () => this.watcher?.close())
    } catch {
      // Not on every file system; the poll remains.
    }
  }

  /** Looks whether another connection has committed something since the last look. */
  poll(): void {
    const version = this.read()
    if (version === this.version) return
    this.version = version
    this.onChange()
  }

  close(): void {
    clearTimeout(this.timer)
    this.watcher?.close()
  }

  /** Changes with every commit of another connection, and only with those. */
  private read(): number {
    try {
      return this.database.sql<readonly [number]>("PRAGMA data_version").get()?.[0] ?? -1
    } catch {
      // Whatever is wrong with the file, the next transaction says it to somebody who hears it.
      return this.version
    }
  }

  private event(): void {
    if (!this.isWanted()) return
    this.looked = 0
    if (this.timer === undefined) this.look()
  }

  private look(): void {
    this.timer = undefined
    const before = this.version
    this.poll()
    const pause = this.version === before ? looks[this.looked++] : undefined
    if (pause === undefined) return
    this.timer = setTimeout(() => this.look(), pause)
    this.timer.unref()
  }
}
