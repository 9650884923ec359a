/**
 * Sends records: batched by partition, one batch of a partition at a time, again with the same numbers until it is answered,
 * so that the server keeps it once and in order.
 *
 * A batch whose time has passed without an answer is given up as unknown; the numbers begin anew with another producer id.
 */

import type { Buffer } from "node:buffer"
import type { ConnectionPool } from "@platformatic/kafka"
import { initProducerIdV4, NumericMap, produceV11 } from "@platformatic/kafka"
import type { Published } from "../../../messaging/Driver.ts"
import type { Cluster } from "./Cluster.ts"
import { isStale, orPartly } from "./Cluster.ts"
import type { About } from "./errors.ts"
import { codesOf, errorOf, hasCode, isRefusal, Refusal, refusalOf, textOf, unavailable } from "./errors.ts"
import type { Headers } from "./Wire.ts"

/** A record on its way. */
export interface Outgoing {
  readonly about: About
  readonly topic: string
  readonly partition: number
  readonly key: Buffer | undefined
  /** None removes what has this key from a compacted topic. */
  readonly value: Buffer | undefined
  readonly headers: Headers
  readonly bytes: number
  /** When it is given up, by the clock of the process. */
  readonly deadline: number
  cancelled: boolean
  readonly done: (answer: Published) => void
}

interface Batch {
  readonly records: ReadonlyArray<Outgoing>
  readonly producer: ProducerId
  readonly sequence: number
  tries: number
}

interface ProducerId {
  readonly id: bigint
  readonly epoch: number
  /** The next number of each partition. */
  readonly sequences: Map<string, number>
}

/** What waits for one partition. */
interface Lane {
  readonly key: string
  readonly topic: string
  readonly partition: number
  waiting: Array<Outgoing>
  batch: Batch | undefined
  /** A request with its batch is not answered yet. */
  underWay: boolean
  /** Not to be sent again before. */
  notBefore: number
  /** What last went wrong with it, and is tried again. */
  problem: unknown
}

/** Most requests to a server at a time; a partition is in one of them alone, so that its batches stay in order. */
const openRequests = 2
const requestBytes = 8 * 1024 * 1024
const requestTimeout = 10_000
/** The server answers one request of a connection after the other, each in time for what is behind it. */
const serverTimeout = requestTimeout / openRequests - 500
const pause = 100
const confirmed: Published = { _tag: "Confirmed" }

export class Producer {
  /** Bytes that wait to be sent or confirmed. */
  bytes = 0
  unanswered = 0
  private readonly cluster: Cluster
  private readonly pool: ConnectionPool
  private readonly lanes = new Map<string, Lane>()
  /** Lanes that have something to send and no request under way. */
  private readonly ready = new Set<Lane>()
  /** Requests under way, by server. */
  private readonly open = new Map<number, number>()
  private readonly room: Array<() => void> = []
  private producer: ProducerId | undefined
  private asking: Promise<void> | undefined
  private scheduled = false
  private timer: NodeJS.Timeout | undefined
  private sweeper: NodeJS.Timeout | undefined
  private closed = false

  constructor(cluster: Cluster) {
    this.cluster = cluster
    this.pool = cluster.pool(requestTimeout)
  }

  get hasRoom(): boolean {
    return this.bytes < this.cluster.settings.bufferBytes
  }

  /** Calls when there may be room; others may be faster. */
  onRoom(resume: () => void): void {
    this.room.push(resume)
  }

  send(record: Outgoing): void {
    if (this.closed) return record.done({ _tag: "Failed", error: errorOf(record.about, closedError()) })
    const key = `${record.topic}:${record.partition}`
    let lane = this.lanes.get(key)
    if (lane === undefined) {
      const { partition, topic } = record
      lane = { key, topic, partition, waiting: [], batch: undefined, underWay: false, notBefore: 0, problem: undefined }
      this.lanes.set(key, lane)
    }
    lane.waiting.push(record)
    this.bytes += record.bytes
    this.unanswered++
    if (!lane.underWay) this.ready.add(lane)
    this.wake(this.cluster.settings.linger)
    this.sweeper ??= setInterval(() => this.sweep(), 500)
  }

  /** Sends what is there soon: at the end of this turn of the event loop, or when it has waited for others. */
  private wake(linger: number): void {
    if (this.scheduled || this.closed) return
    this.scheduled = true
    const go = () => {
      this.scheduled = false
      this.pump()
    }
    if (linger > 0) setTimeout(go, linger)
    else setImmediate(go)
  }

  private wakeLater(after: number): void {
    this.timer ??= setTimeout(() => {
      this.timer = undefined
      this.pump()
    }, after)
  }

  private pump(): void {
    if (this.closed || this.ready.size === 0) return
    if (this.producer === undefined && this.asking === undefined) {
      this.asking = this.introduce().finally(() => {
        this.asking = undefined
        if (this.producer === undefined) this.wakeLater(pause)
        else this.pump()
      })
    }
    const { producer } = this
    if (producer === undefined) return
    const now = Date.now()
    const byLeader = new Map<number, Array<Lane>>()
    for (const lane of this.ready) {
      if (lane.notBefore > now) {
        this.wakeLater(lane.notBefore - now)
        continue
      }
      const leader = this.cluster.leaderOf(lane.topic, lane.partition)
      if (leader < 0) this.lookUp(lane)
      else if (this.hasRequestLeft(leader)) byLeader.set(leader, [...(byLeader.get(leader) ?? []), lane])
    }
    for (const [leader, lanes] of byLeader) {
      // In as many parts as requests may be open: while the server writes one, the next one is made.
      const most = Math.ceil(lanes.length / (openRequests - (this.open.get(leader) ?? 0)))
      for (let i = 0; i < lanes.length; i += most) this.request(leader, lanes.slice(i, i + most), producer)
    }
  }

  private hasRequestLeft(leader: number): boolean {
    return (this.open.get(leader) ?? 0) < openRequests
  }

  private async introduce(): Promise<void> {
    try {
      const { producerEpoch, producerId } = await this.cluster.any(initProducerIdV4.api, null, 60_000, -1n, -1)
      this.producer = { id: producerId, epoch: producerEpoch, sequences: new Map() }
    } catch (error) {
      if (hasCode(error, "CLUSTER_AUTHORIZATION_FAILED", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")) this.failAll(error)
      for (const lane of this.ready) lane.problem = error
    }
  }

  private failAll(error: unknown): void {
    const lanes = [...this.ready]
    // First, since those who hear of it may send again at once.
    this.ready.clear()
    for (const lane of lanes) {
      for (const record of takeAll(lane)) this.fail(record, error)
    }
  }

  /** Who leads it now? */
  private lookUp(lane: Lane): void {
    lane.notBefore = Date.now() + pause
    this.cluster.refresh([lane.topic]).then(
      () => {
        if (this.cluster.topic(lane.topic) === undefined) this.missing(lane)
        this.wakeLater(pause)
      },
      (error) => {
        lane.problem = error
        this.wakeLater(pause)
      }
    )
  }

  private missing(lane: Lane): void {
    // It may be written after all; the answer will tell.
    if (lane.underWay) return
    const error = new Refusal("UNKNOWN_TOPIC_OR_PARTITION", `topic "${lane.topic}" does not exist any more`)
    this.ready.delete(lane)
    for (const record of takeAll(lane)) this.fail(record, error)
  }

  /** Sends what these lanes have; batches of different producer ids do not go together. */
  private request(leader: number, lanes: ReadonlyArray<Lane>, current: ProducerId): void {
    const sent: Array<readonly [Lane, Batch]> = []
    let bytes = 0
    const owner = lanes.find(({ batch }) => batch !== undefined)?.batch?.producer ?? current
    for (const lane of lanes) {
      const batch = lane.batch ?? (owner === current ? this.fill(lane, current) : undefined)
      if (batch === undefined || batch.producer !== owner) {
        if (lane.waiting.length === 0 && lane.batch === undefined) this.ready.delete(lane)
        continue
      }
      bytes += batch.records.reduce((sum, record) => sum + record.bytes, 0)
      if (sent.length > 0 && bytes > requestBytes) break
      batch.tries++
      lane.underWay = true
      sent.push([lane, batch])
      this.ready.delete(lane)
    }
    if (sent.length === 0) return
    this.open.set(leader, (this.open.get(leader) ?? 0) + 1)
    const sequences = new NumericMap(sent.map(([lane, batch]) => [lane.key, batch.sequence]))
    const now = BigInt(Date.now())
    const records = sent.flatMap(([, batch]) =>
      batch.records.map(({ headers, key, partition, topic, value }) => ({
        topic,
        partition,
        headers,
        timestamp: now,
        // The client's types do not say so, but it writes none where there is none.
        key: key as Buffer,
        value: value as Buffer
      }))
    )
    const options = {
      compression: this.cluster.settings.compression,
      producerId: owner.id,
      producerEpoch: owner.epoch,
      sequences
    }
    orPartly(this.cluster.at(this.pool, leader, produceV11.api, -1, serverTimeout, records, options))
      .then(
        (answer) => this.answered(sent, answer),
        (error) => this.notAnswered(sent, error)
      )
      .finally(() => {
        const left = (this.open.get(leader) ?? 0) - 1
        if (left > 0) this.open.set(leader, left)
        else this.open.delete(leader)
        this.pump()
      })
  }

  /** The next batch of a lane. */
  private fill(lane: Lane, producer: ProducerId): Batch | undefined {
    let count = 0
    let bytes = 0
    const records: Array<Outgoing> = []
    for (const record of lane.waiting) {
      if (!record.cancelled) {
        if (records.length > 0 && bytes + record.bytes > this.cluster.settings.batchBytes) break
        bytes += record.bytes
        records.push(record)
      } else this.end(record)
      count++
    }
    lane.waiting.splice(0, count)
    if (records.length === 0) return undefined
    lane.batch = this.number(lane, records, producer)
    return lane.batch
  }

  private number(lane: Lane, records: ReadonlyArray<Outgoing>, producer: ProducerId): Batch {
    const sequence = producer.sequences.get(lane.key) ?? 0
    producer.sequences.set(lane.key, (sequence + records.length) % 0x80000000)
    return { records, producer, sequence, tries: 0 }
  }

  private answered(
    sent: ReadonlyArray<readonly [Lane, Batch]>,
    answer: Awaited<ReturnType<typeof produceV11.api.async>>
  ): void {
    const codes = new Map<string, { readonly errorCode: number; readonly errorMessage?: string | null | undefined }>()
    if (typeof answer !== "boolean") {
      for (const { name, partitionResponses } of answer.responses) {
        for (const response of partitionResponses) codes.set(`${name}:${response.index}`, response)
      }
    }
    for (const [lane, batch] of sent) {
      const response = codes.get(lane.key)
      // The last: it was written by a request whose answer was lost.
      if (response?.errorCode === 0 || response?.errorCode === duplicateSequence) this.confirm(lane, batch)
      else this.refused(lane, batch, refusalOf(response?.errorCode ?? -1, response?.errorMessage ?? null))
    }
  }

  private notAnswered(sent: ReadonlyArray<readonly [Lane, Batch]>, error: unknown): void {
    for (const [lane, batch] of sent) this.refused(lane, batch, error)
    for (const topic of new Set(sent.map(([lane]) => lane.topic))) this.cluster.refresh([topic]).catch(() => undefined)
  }

  /** The request with this batch is over. False where the batch was given up meanwhile. */
  private endRequest(lane: Lane, batch: Batch): boolean {
    lane.underWay = false
    if (lane.waiting.length > 0 || lane.batch !== undefined) this.ready.add(lane)
    else this.lanes.delete(lane.key)
    return lane.batch === batch
  }

  private confirm(lane: Lane, batch: Batch): void {
    if (!this.endRequest(lane, batch)) return
    lane.batch = undefined
    lane.problem = undefined
    for (const record of batch.records) {
      this.end(record)
      record.done(confirmed)
    }
    if (lane.waiting.length > 0) return
    this.ready.delete(lane)
    this.lanes.delete(lane.key)
  }

  private refused(lane: Lane, batch: Batch, error: unknown): void {
    if (!this.endRequest(lane, batch)) return
    lane.problem = error
    if (hasCode(error, ...lostNumbers)) {
      if (this.producer === batch.producer) this.producer = undefined
      // It is numbered anew, at the head of its lane.
      lane.waiting.unshift(...batch.records)
      lane.batch = undefined
      lane.notBefore = Date.now() + pause
    } else if (hasCode(error, "MESSAGE_TOO_LARGE", "RECORD_LIST_TOO_LARGE") && batch.records.length > 1) {
      // Its numbers are unused, as those behind it have not been given yet.
      batch.producer.sequences.set(lane.key, batch.sequence)
      const half = batch.records.length >> 1
      lane.waiting.unshift(...batch.records.slice(half))
      lane.batch = this.number(lane, batch.records.slice(0, half), batch.producer)
    } else if (isStale(error) || hasCode(error, ...transient)) {
      lane.notBefore = Date.now() + pause
      if (codesOf(error).length > 0) this.lookUp(lane)
    } else this.failBatch(lane, batch, error)
  }

  /** It is not sent again. The numbers of what may have been written must not be given to anything else. */
  private failBatch(lane: Lane, batch: Batch, error: unknown): void {
    lane.batch = undefined
    const isUnwritten = batch.tries === 1 && isRefusal(error)
    if (isUnwritten) batch.producer.sequences.set(lane.key, batch.sequence)
    else if (this.producer === batch.producer) this.producer = undefined
    const why = isUnwritten || error === undefined ? error : new Error(`${textOf(error)}; it may have been written`)
    for (const record of batch.records) this.fail(record, why, lane.problem)
  }

  /** Gives up what has waited too long. */
  private sweep(): void {
    const now = Date.now()
    for (const lane of this.lanes.values()) {
      const { batch } = lane
      if (batch?.records.some(({ deadline }) => deadline <= now)) this.failBatch(lane, batch, undefined)
      const late = lane.waiting.filter((record) => record.deadline <= now || record.cancelled)
      if (late.length > 0) lane.waiting = lane.waiting.filter((record) => !late.includes(record))
      for (const record of late) this.fail(record, undefined, lane.problem)
      if (lane.waiting.length === 0 && lane.batch === undefined && !lane.underWay) {
        this.lanes.delete(lane.key)
        this.ready.delete(lane)
      }
    }
    if (this.unanswered === 0) {
      clearInterval(this.sweeper)
      this.sweeper = undefined
    }
    this.pump()
  }

  /** Without an error its time has passed; `last` is what then was in the way. */
  private fail(record: Outgoing, error: unknown, last?: unknown): void {
    this.end(record)
    const { patience } = this.cluster.settings
    const why = last === undefined ? "" : ` (${textOf(last)})`
    const unknown = () =>
      unavailable(record.about, `not confirmed within ${patience} ms${why}; it may have been written`, last)
    record.done({ _tag: "Failed", error: error === undefined ? unknown() : errorOf(record.about, error) })
  }

  private end(record: Outgoing): void {
    this.bytes -= record.bytes
    this.unanswered--
    if (this.room.length > 0 && this.hasRoom) for (const resume of this.room.splice(0)) resume()
  }

  async close(): Promise<void> {
    this.closed = true
    clearInterval(this.sweeper)
    clearTimeout(this.timer)
    const error = closedError()
    const lanes = [...this.lanes.values()]
    this.lanes.clear()
    this.ready.clear()
    for (const lane of lanes) {
      for (const record of takeAll(lane)) this.fail(record, error)
    }
    await this.cluster.closePool(this.pool)
  }
}

/** Whatever a lane has; an answer that comes for it finds nothing. */
const takeAll = (lane: Lane): ReadonlyArray<Outgoing> => {
  const { batch, waiting } = lane
  lane.batch = undefined
  lane.waiting = []
  return batch === undefined ? waiting : [...batch.records, ...waiting]
}

const closedError = (): Refusal => new Refusal("CLOSED", "the broker's layer was closed")

const duplicateSequence = 46
const lostNumbers = [
  "OUT_OF_ORDER_SEQUENCE_NUMBER",
  "UNKNOWN_PRODUCER_ID",
  "INVALID_PRODUCER_EPOCH",
  "INVALID_PRODUCER_ID_MAPPING"
]
const transient = [
  "NOT_ENOUGH_REPLICAS",
  "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
  "REQUEST_TIMED_OUT",
  "CORRUPT_MESSAGE",
  "COORDINATOR_LOAD_IN_PROGRESS"
]
