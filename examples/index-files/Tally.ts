/**
 * What has been counted so far, and its summary as text.
 */
import { extname } from "node:path"
import { ByteSize, Effect } from "effect"
import type { Unreadable } from "./errors.ts"
import type { HashedFile } from "./hashFile.ts"

/** How much the summary shows. */
const mostTypes = 12
const mostUnreadable = 5

interface Sums {
  files: number
  bytes: number
}

/** Many tasks add to it, without a lock: JavaScript runs one at a time, and none of them waits while it adds. */
export class Tally {
  private readonly total: Sums = { files: 0, bytes: 0 }
  private readonly byType = new Map<string, Sums>()
  private unreadable = 0
  private readonly firstUnreadable: Array<Unreadable> = []

  readonly add = (file: HashedFile): Effect.Effect<void> =>
    Effect.sync(() => {
      const type = extname(file.path).toLowerCase() || "(none)"
      const sums = this.byType.get(type) ?? { files: 0, bytes: 0 }
      this.byType.set(type, sums)
      for (const each of [sums, this.total]) {
        each.files += 1
        each.bytes += file.bytes
      }
    })

  readonly addUnreadable = (error: Unreadable): Effect.Effect<void> =>
    Effect.sync(() => {
      this.unreadable += 1
      if (this.firstUnreadable.length < mostUnreadable) this.firstUnreadable.push(error)
    })

  get soFar(): string {
    return `${count(this.total.files)} files, ${size(this.total.bytes)}`
  }

  /** The largest types, the total, and the first files that could not be read. */
  summary(elapsedMillis: number, peakMemory: number): string {
    const types = [...this.byType].sort(([, a], [, b]) => b.bytes - a.bytes)
    const lines = [row("type", "files", "size")]
    for (const [type, sums] of types.slice(0, mostTypes)) lines.push(row(type, count(sums.files), size(sums.bytes)))
    const others = types.slice(mostTypes)
    if (others.length > 0) {
      const sum = (of: keyof Sums) => others.reduce((total, [, sums]) => total + sums[of], 0)
      lines.push(row(`${others.length} others`, count(sum("files")), size(sum("bytes"))))
    }
    lines.push(row("total", count(this.total.files), size(this.total.bytes)), "")

    const seconds = Math.max(elapsedMillis, 1) / 1000
    const rates = `${count(this.total.files / seconds)} files/s, ${size(this.total.bytes / seconds)}/s`
    lines.push(`${seconds.toFixed(2)} s, ${rates}, peak memory ${size(peakMemory)}`)

    if (this.unreadable > 0) {
      lines.push("", `${count(this.unreadable)} could not be read:`)
      for (const { path, reason } of this.firstUnreadable) lines.push(`  ${shorten(path)}: ${reason}`)
      const more = this.unreadable - this.firstUnreadable.length
      if (more > 0) lines.push(`  and ${count(more)} more`)
    }
    return lines.join("\n")
  }
}

const row = (type: string, files: string, bytes: string): string =>
  type.padEnd(16) + files.padStart(10) + bytes.padStart(14)

const count = (n: number): string => Math.round(n).toLocaleString("en-US")

const size = (bytes: number): string =>
  ByteSize.format(ByteSize.bytes(Math.round(bytes)), { precision: 1, trailingZeros: true })

const shorten = (path: string): string => (path.length <= 100 ? path : `${path.slice(0, 40)}…${path.slice(-59)}`)
