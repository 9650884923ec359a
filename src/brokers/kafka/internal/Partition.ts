/**
 * A partition that this subscription owns: what was read of it, what is handed over, what is finished.
 *
 * Each time that it is assigned it is a new object, so that whatever belongs to an earlier assignment finds it closed. All is
 * synchronous: a call is one step.
 *
 * ```text
 *   read ──▶ entries, in the order of their offsets ──▶ handed over ──▶ finished
 *                 ▲      ▲                                   │
 *                 │      └── returned, by the time when they are due
 *                 └── first unfinished: up to here it is committed
 * ```
 */
import type { Delivery, RawMessage, Settled } from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import type { Progress, Tried } from "./Progress.ts"
import { isFinished, write } from "./Progress.ts"
import type { Record } from "./Wire.ts"
import { dueOf, messageOf } from "./Wire.ts"

/** With what it takes to remember it. */
const sizeOf = ({ headers, key, value }: Record): number => {
  let bytes = 100 + (value?.length ?? 0) + (key?.length ?? 0)
  for (const [name, text] of headers) bytes += (name?.length ?? 0) + (text?.length ?? 0)
  return bytes
}

/** A message of the partition. */
export class Entry {
  readonly partition: Partition
  /** What was read; gone when it is finished. */
  record: Record | undefined
  readonly offset: number
  readonly bytes: number
  message: RawMessage | undefined = undefined
  /** `waiting`: not handed over · `held`: handed over · `finished` */
  state: "waiting" | "held" | "finished" = "waiting"
  /** The latest time it was handed over. */
  delivery: KafkaDelivery | undefined = undefined
  /** Milliseconds since 1970. */
  dueAt = 0
  /** How often it was tried, where it is tried again in its place. */
  tried: Tried | undefined = undefined

  constructor(partition: Partition, record: Record) {
    this.partition = partition
    this.record = record
    this.offset = record.offset
    this.bytes = sizeOf(record)
  }

  /** Decoded when it is first asked for. */
  get content(): RawMessage {
    this.message ??= this.read()
    return this.message
  }

  private read(): RawMessage {
    const { index, origin, topic } = this.partition
    const { offset, record } = this
    if (record === undefined) throw new Error("a message was read again that is finished")
    const message = messageOf(record, origin, () => `${topic}/${index}/${offset}`)
    const { tried } = this
    if (tried === undefined) return message
    const history = { firstFailedAt: tried.firstFailedAt, attempts: message.envelope.history?.attempts ?? [] }
    return { envelope: { ...message.envelope, attempt: tried.attempt, history }, body: message.body }
  }
}

/** One handing over of a message. */
export class KafkaDelivery implements Delivery {
  readonly message: RawMessage
  /** Kafka does not count. */
  readonly deliveries = undefined
  /** It lasts as long as the partition is ours. */
  readonly leaseEndsAt = undefined
  readonly entry: Entry
  settled = false
  abandoned = false
  /** A copy of it is on its way to the topic of retries. */
  copying: Promise<Settled> | undefined = undefined

  constructor(entry: Entry) {
    this.entry = entry
    this.message = entry.content
  }
}

/** Messages of a key that wait: since an earlier one of it was given back, or since as many of it are held as may be. */
interface Lane {
  readonly key: string
  /** In the order of their offsets. */
  readonly entries: Array<Entry>
  /** The first of them is among those that are returned: it is handed over when it is due. */
  stands: boolean
}

export class Partition {
  readonly topic: string
  readonly topicId: string
  readonly index: number
  /** The topic that its messages were published to; another one where this is the topic of retries. */
  readonly origin: string
  private readonly ordered: boolean
  /** Most deliveries of a key that are held. */
  private readonly perKey: number
  private progress: Progress
  /** Where to read on. */
  position: number
  /** How large its messages are of late, about. */
  recordBytes = 500
  /** The server has more of it, as far as is known. */
  behind = true
  /** Taken away: nothing of it counts any more. */
  closed = false
  /** To be given up: nothing more is handed over. Each time that it is taken away it is another object. */
  revocation: object | undefined = undefined
  /** Something was finished that is not committed. */
  dirty = false
  held = 0
  /** Not handed over. */
  waiting = 0
  /** Of those not handed over. */
  bytes = 0
  /** Of those that nobody has looked at. */
  aheadBytes = 0
  /** Unfinished ones and, behind the first of them, finished ones. */
  private entries: Array<Entry> = []
  private first = 0
  /** The first that was never handed over nor put into a lane. */
  private fresh = 0
  /** Given back, the first due one first. With order by key, those are the heads of lanes. */
  private readonly returned: Array<Entry> = []
  private readonly lanes = new Map<string, Lane>()
  /** By key, where there is a bound for it. */
  private readonly heldByKey = new Map<string, number>()
  private reach: number

  constructor(options: {
    readonly topic: string
    readonly topicId: string
    readonly index: number
    readonly origin: string
    readonly ordered: boolean
    readonly perKey: number
    readonly progress: Progress
  }) {
    this.topic = options.topic
    this.topicId = options.topicId
    this.index = options.index
    this.origin = options.origin
    this.ordered = options.ordered
    this.perKey = options.ordered ? options.perKey : Number.POSITIVE_INFINITY
    this.progress = options.progress
    this.position = options.progress.from
    this.reach = options.progress.reach
  }

  get revoking(): boolean {
    return this.revocation !== undefined
  }

  get isRetry(): boolean {
    return this.topic !== this.origin
  }

  /** Remembered: open ones, and finished ones behind the first open one. */
  get size(): number {
    return this.entries.length - this.first
  }

  /** Those that nobody has looked at. */
  get ahead(): number {
    return this.entries.length - this.fresh
  }

  /**
   * Adds what was read, up to the bound; `position` is where to read on after all of it, which may lie beyond the last record.
   */
  add(records: ReadonlyArray<Record>, position: number, most: number): void {
    for (const record of records) {
      if (record.offset < this.position) continue
      if (this.size >= most) {
        this.position = record.offset
        return
      }
      if (isFinished(this.progress, record.offset)) continue
      const entry = new Entry(this, record)
      const tried = this.progress.tried.get(record.offset)
      if (tried !== undefined) {
        entry.tried = tried
        entry.dueAt = tried.dueAt
      } else if (this.isRetry) entry.dueAt = dueOf(record)
      this.entries.push(entry)
      this.waiting++
      this.bytes += entry.bytes
      this.aheadBytes += entry.bytes
      this.recordBytes += (entry.bytes - this.recordBytes) / 10
    }
    this.position = Math.max(this.position, position)
  }

  /** The next message to hand over at this time; `fits` says whether there is room for it. */
  next(now: number, fits: (entry: Entry) => boolean): KafkaDelivery | undefined {
    const back = this.returned[0]
    if (back !== undefined && back.dueAt <= now) {
      if (!fits(back)) return undefined
      this.returned.shift()
      const delivery = this.hand(back)
      this.leave(back)
      return delivery
    }
    for (;;) {
      const entry = this.entries[this.fresh]
      if (entry === undefined) return undefined
      const key = this.laneKeyOf(entry)
      const waits = key !== undefined && (this.lanes.has(key) || this.isFull(key))
      if (!waits && entry.dueAt <= now && !fits(entry)) return undefined
      this.fresh++
      this.aheadBytes -= entry.bytes
      if (waits) this.queue(key, entry)
      else if (entry.dueAt > now) this.giveBack(entry)
      else return this.hand(entry)
    }
  }

  /** The key that decides whether a message may go; not asked for where it cannot matter, since that costs decoding it. */
  private laneKeyOf(entry: Entry): string | undefined {
    const matters = this.ordered && (this.lanes.size > 0 || this.perKey !== Number.POSITIVE_INFINITY)
    return matters ? entry.content.envelope.key : undefined
  }

  /** As many of this key are held as may be. */
  private isFull(key: string): boolean {
    return (this.heldByKey.get(key) ?? 0) >= this.perKey
  }

  private hand(entry: Entry): KafkaDelivery {
    const delivery = new KafkaDelivery(entry)
    entry.state = "held"
    this.waiting--
    this.held++
    this.bytes -= entry.bytes
    entry.delivery = delivery
    this.count(entry, 1)
    return delivery
  }

  private count(entry: Entry, change: 1 | -1): void {
    if (this.perKey === Number.POSITIVE_INFINITY) return
    const { key } = entry.content.envelope
    if (key === undefined) return
    const held = (this.heldByKey.get(key) ?? 0) + change
    if (held === 0) this.heldByKey.delete(key)
    else this.heldByKey.set(key, held)
    if (change === -1) this.goOn(key)
  }

  /** At the end of its lane, where it waits for those before it. */
  private queue(key: string, entry: Entry): void {
    const lane = this.lanes.get(key)
    if (lane === undefined) this.lanes.set(key, { key, entries: [entry], stands: false })
    else lane.entries.push(entry)
  }

  /** The head of a lane was handed over; the next one is its head now. */
  private leave(head: Entry): void {
    const key = this.ordered ? head.content.envelope.key : undefined
    const lane = key === undefined ? undefined : this.lanes.get(key)
    if (lane === undefined) return
    lane.entries.shift()
    lane.stands = false
    if (lane.entries.length === 0) this.lanes.delete(lane.key)
    else this.goOn(lane.key)
  }

  /** The first that waits of a key may go, where there is room for one more of it. */
  private goOn(key: string): void {
    const lane = this.lanes.get(key)
    const head = lane?.entries[0]
    if (lane === undefined || head === undefined || lane.stands || this.isFull(key)) return
    lane.stands = true
    this.insert(head)
  }

  /** Takes back what was handed over. */
  release(entry: Entry): void {
    this.unhold(entry)
    this.giveBack(entry)
    // Only now, so that nothing of its key goes before it.
    this.count(entry, -1)
  }

  /** Takes it back to be tried again in its place. */
  retry(entry: Entry, envelope: Envelope, dueAt: number): void {
    entry.message = { envelope, body: entry.content.body }
    entry.dueAt = dueAt
    const { attempt, history } = envelope
    entry.tried = { offset: entry.offset, attempt, firstFailedAt: history?.firstFailedAt ?? dueAt, dueAt }
    this.dirty = true
    this.release(entry)
  }

  private unhold(entry: Entry): void {
    entry.state = "waiting"
    entry.delivery = undefined
    this.held--
    this.waiting++
    this.bytes += entry.bytes
  }

  /** Back to where it was. */
  private giveBack(entry: Entry): void {
    const key = this.ordered ? entry.content.envelope.key : undefined
    if (key === undefined) return this.insert(entry)
    const lane = this.lanes.get(key)
    if (lane === undefined) {
      this.queue(key, entry)
      return this.goOn(key)
    }
    const head = lane.entries[0]
    const at = lane.entries.findIndex(({ offset }) => offset > entry.offset)
    if (at < 0) lane.entries.push(entry)
    else lane.entries.splice(at, 0, entry)
    if (lane.entries[0] === entry && lane.stands) {
      const stood = head === undefined ? -1 : this.returned.indexOf(head)
      if (stood >= 0) this.returned.splice(stood, 1)
      lane.stands = false
    }
    this.goOn(key)
  }

  /** By the time when it is due, and by its offset. */
  private insert(entry: Entry): void {
    let low = 0
    let high = this.returned.length
    while (low < high) {
      const middle = (low + high) >> 1
      const other = this.returned[middle]
      const before =
        other !== undefined &&
        (other.dueAt < entry.dueAt || (other.dueAt === entry.dueAt && other.offset < entry.offset))
      if (before) low = middle + 1
      else high = middle
    }
    this.returned.splice(low, 0, entry)
  }

  /** When the next one is due that is not; infinite where there is none. */
  get nextDue(): number {
    return this.returned[0]?.dueAt ?? Number.POSITIVE_INFINITY
  }

  finish(entry: Entry): void {
    this.count(entry, -1)
    entry.state = "finished"
    entry.delivery = undefined
    entry.record = undefined
    entry.message = undefined
    this.held--
    this.dirty = true
    if (entry.offset >= this.reach) this.reach = entry.offset + 1
    while (this.entries[this.first]?.state === "finished") this.first++
    // Now and then, so that it costs little each time.
    if (this.first > 1000 && this.first * 2 > this.entries.length) {
      this.entries = this.entries.slice(this.first)
      this.fresh -= this.first
      this.first = 0
    }
  }

  /** What to commit: everything below the offset is finished. */
  commit(): { readonly offset: number; readonly metadata: string } {
    this.dirty = false
    const { position, progress } = this
    const offset = this.entries[this.first]?.offset ?? Math.max(position, progress.from)
    const open: Array<number> = []
    const tried: Array<Tried> = []
    for (let i = this.first; i < this.entries.length; i++) {
      const entry = this.entries[i]
      if (entry === undefined || entry.state === "finished") continue
      open.push(entry.offset)
      if (entry.tried !== undefined) tried.push(entry.tried)
    }
    // What an earlier owner has told and was not read yet.
    if (position < progress.reach) {
      for (const unread of progress.open) if (unread >= position) open.push(unread)
      for (const one of progress.tried.values()) if (one.offset >= position) tried.push(one)
    }
    return { offset, metadata: write(offset, this.reach, open, tried) }
  }

  /** The partition does not have what was to be read next any more, and goes on further on. */
  skipTo(offset: number): void {
    const { open, reach, tried } = this.progress
    this.position = offset
    // What is known of those behind it holds on; of what is below, nothing is told any more.
    this.progress = {
      from: offset,
      reach: Math.max(offset, reach),
      open: new Set([...open].filter((at) => at >= offset)),
      tried: new Map([...tried].filter(([at]) => at >= offset))
    }
    this.reach = Math.max(offset, this.reach)
    this.dirty = true
  }

  /** What is handed over. */
  get deliveries(): ReadonlyArray<KafkaDelivery> {
    return this.held === 0 ? [] : this.entries.slice(this.first).flatMap(({ delivery }) => delivery ?? [])
  }

  /** The message that was handed over with this payload. */
  find(body: Uint8Array): Entry | undefined {
    return this.held === 0 ? undefined : this.entries.find((entry) => entry.delivery?.message.body === body)
  }

  /** How many of those not handed over are not due, or stand behind one of their key that is not. */
  delayed(now: number): number {
    let delayed = 0
    for (const { content, dueAt } of this.returned) {
      if (dueAt <= now) continue
      const { key } = content.envelope
      delayed += (key === undefined ? undefined : this.lanes.get(key)?.entries.length) ?? 1
    }
    return delayed
  }
}
