/**
 * What a group has finished of a partition, as it is committed.
 *
 * Kafka keeps one offset, below which everything is finished. What is finished beyond it stands in the text that may be
 * committed beside it, so that another owner of the partition does not repeat it; and so does how often a message was tried
 * that is tried again in its place. The text is bounded: what does not fit is repeated.
 */
import { Buffer } from "node:buffer"
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

/** Unfinished offsets: few as distances, each from the one before; many as bits from the committed offset on, in base64. */
const Open = Schema.Union([Schema.Array(Schema.Int), Schema.String])
const Text = Schema.fromJsonString(
  Schema.Struct({
    v: Schema.Literal(2),
    reach: Schema.Int,
    open: Open,
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
  const attempts = tried
    .slice(0, 50)
    .map(({ attempt, dueAt, firstFailedAt, offset }) => [offset - from, attempt, firstFailedAt, dueAt])
  const room = longest - JSON.stringify(attempts).length - 60
  const text = (told: number, open: ReadonlyArray<number> | string) =>
    JSON.stringify({ v: 2, reach: told, open, tried: attempts })
  let length = 0
  let last = from
  let told = reach
  const distances: Array<number> = []
  for (const offset of open) {
    if (offset >= reach) break
    length += String(offset - last).length + 1
    if (length > room) {
      // From here on all is told as unfinished.
      told = offset
      break
    }
    distances.push(offset - last)
    last = offset
  }
  // Four letters have 24 bits.
  const toldByBits = Math.min(reach, from + Math.floor(room / 4) * 24)
  return told >= toldByBits ? text(told, distances) : text(toldByBits, bitsOf(from, toldByBits, open))
}

const bitsOf = (from: number, end: number, open: ReadonlyArray<number>): string => {
  const bits = Buffer.alloc(Math.ceil((end - from) / 8))
  for (const offset of open) {
    if (offset >= end) break
    const at = offset - from
    bits[at >> 3] = (bits[at >> 3] ?? 0) | (1 << (at & 7))
  }
  return bits.toString("base64")
}

const offsetsOf = function* (from: number, open: typeof Open.Type): Generator<number> {
  if (typeof open === "string") {
    for (const [i, byte] of Buffer.from(open, "base64").entries()) {
      for (let bit = 0; bit < 8; bit++) if ((byte & (1 << bit)) !== 0) yield from + i * 8 + bit
    }
  } else {
    let last = from
    for (const distance of open) {
      last += distance
      yield last
    }
  }
}

/** What the text says; of a text that is not ours, that everything from the offset on is unfinished. */
export const read = (from: number, metadata: string): Progress => {
  const found = Option.getOrUndefined(decode(metadata))
  const tried = new Map<number, Tried>()
  if (found === undefined) return { from, reach: from, open: new Set(), tried }
  for (const [distance, attempt, firstFailedAt, dueAt] of found.tried) {
    tried.set(from + distance, { offset: from + distance, attempt, firstFailedAt, dueAt })
  }
  return { from, reach: Math.max(from, found.reach), open: new Set(offsetsOf(from, found.open)), tried }
}

/** Whether a message was finished before. */
export const isFinished = ({ from, open, reach }: Progress, offset: number): boolean =>
  offset < from || (offset < reach && !open.has(offset))
