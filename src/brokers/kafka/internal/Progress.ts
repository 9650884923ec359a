/**
 * What a group has finished of a partition, as it is committed.
 *
 * Kafka keeps one offset, below which everything is finished. What is finished beyond it stands in the text that may be
 * committed beside it, so that another owner of the partition does not repeat it; and so does how often a message was tried
 * that is tried again in its place. The text is bounded: what does not fit is repeated.
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/** Servers take 4096 bytes unless they are told otherwise. */
const longest = 3_500

/** A message that is tried again in its place. */
export interface Tried {
  readonly offset: number
  readonly attempt: number
  /** Milliseconds since 1970. */
  readonly firstFailedAt: number
  readonly dueAt: number
}

export interface Progress {
  /** Everything below is finished, */
  readonly from: number
  /** and everything from here on is not; in between it is, but for these. */
  readonly reach: number
  readonly open: ReadonlySet<number>
  readonly tried: ReadonlyMap<number, Tried>
}

const Text = Schema.fromJsonString(
  Schema.Struct({
    v: Schema.Literal(1),
    reach: Schema.Int,
    /** Distances, each from the one before. */
    open: Schema.Array(Schema.Int),
    tried: Schema.Array(Schema.Tuple([Schema.Int, Schema.Int, Schema.Int, Schema.Int]))
  })
)
const decode = Schema.decodeUnknownOption(Text)

/** The text; empty where it would say nothing. `open` are the unfinished offsets from `from` on, in order. */
export const write = (
  from: number,
  reach: number,
  open: ReadonlyArray<number>,
  tried: ReadonlyArray<Tried>
): string => {
  if (reach <= from && tried.length === 0) return ""
  const first = tried.slice(0, 50)
  const attempts = first.map(({ attempt, dueAt, firstFailedAt, offset }) => [
    offset - from,
    attempt,
    firstFailedAt,
    dueAt
  ])
  let length = JSON.stringify(attempts).length + 60
  let last = from
  const distances: Array<number> = []
  for (const offset of open) {
    if (offset >= reach) break
    length += String(offset - last).length + 1
    // From here on all is told as unfinished.
    if (length > longest) return text(offset, distances, attempts)
    distances.push(offset - last)
    last = offset
  }
  return text(reach, distances, attempts)
}

const text = (reach: number, open: ReadonlyArray<number>, tried: ReadonlyArray<ReadonlyArray<number>>): string =>
  JSON.stringify({ v: 1, reach, open, tried })

/** What the text says; of a text that is not ours, that everything from the offset on is unfinished. */
export const read = (from: number, metadata: string): Progress => {
  const found = Option.getOrUndefined(decode(metadata))
  const open = new Set<number>()
  const tried = new Map<number, Tried>()
  if (found === undefined) return { from, reach: from, open, tried }
  let last = from
  for (const distance of found.open) {
    last += distance
    open.add(last)
  }
  for (const [distance, attempt, firstFailedAt, dueAt] of found.tried) {
    tried.set(from + distance, { offset: from + distance, attempt, firstFailedAt, dueAt })
  }
  return { from, reach: Math.max(from, found.reach), open, tried }
}

/** Whether a message was finished before. */
export const isFinished = ({ from, open, reach }: Progress, offset: number): boolean =>
  offset < from || (offset < reach && !open.has(offset))
