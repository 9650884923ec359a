/**
 * Reads the partitions that have room. One that has no room is left out of the requests, and the others go on.
 *
 * Each server has two requests at a time, on connections of their own, since it answers a connection one after the other: one
 * for what it has more of, which it answers at once, and one that waits until something new is published. With one request
 * for both, what gets room while it waits would stand still for as long.
 */
import type { ConnectionPool } from "@platformatic/kafka"
import { fetchV16, IS_CONTROL, IS_TRANSACTIONAL } from "@platformatic/kafka"
import type { Cluster } from "./Cluster.ts"
import { orPartly } from "./Cluster.ts"
import { refusalOf } from "./errors.ts"
import type { Partition } from "./Partition.ts"
import { sleep } from "./sleep.ts"
import type { Record } from "./Wire.ts"

type Read = fetchV16.FetchResponse["responses"][number]["partitions"][number]

type Kind = "atOnce" | "waiting"

interface Requests {
  readonly pool: ConnectionPool
  /** The servers that have one of them. */
  readonly busy: Set<number>
}

/** How long a server waits for something new, and so how long one may wait that has been read to its end meanwhile. */
const maxWait = 250
const requestTimeout = 5_000
const partitionBytes = 1024 * 1024
const leastBytes = 16 * 1024
const requestBytes = 8 * 1024 * 1024
const readCommitted = 1
const pause = 100
const longestRefresh = 1_000

export class Fetcher {
  /** Why it cannot read. */
  problem: unknown = undefined
  private readonly cluster: Cluster
  private readonly requests: { readonly [K in Kind]: Requests }
  private readonly wanted: () => ReadonlyArray<Partition>
  private readonly hasRoom: (partition: Partition) => boolean
  private readonly onRead: () => void
  /** The partition begins elsewhere than where it was to be read. */
  private readonly onGap: (partition: Partition) => Promise<void>
  /** There is a request for them. */
  private readonly asking = new Set<Partition>()
  /** Left out for a moment, since something was wrong with them. */
  private readonly resting = new Set<Partition>()
  private closed = false

  constructor(
    cluster: Cluster,
    handlers: {
      readonly wanted: () => ReadonlyArray<Partition>
      readonly hasRoom: (partition: Partition) => boolean
      readonly onRead: () => void
      readonly onGap: (partition: Partition) => Promise<void>
    }
  ) {
    this.cluster = cluster
    const requests = (): Requests => ({ pool: cluster.pool(requestTimeout), busy: new Set() })
    this.requests = { atOnce: requests(), waiting: requests() }
    this.wanted = handlers.wanted
    this.hasRoom = handlers.hasRoom
    this.onRead = handlers.onRead
    this.onGap = handlers.onGap
  }

  /** Something may have room. */
  poke(): void {
    if (this.closed) return
    const leaderless: Array<Partition> = []
    const ready: { readonly [K in Kind]: Map<number, Array<Partition>> } = { atOnce: new Map(), waiting: new Map() }
    for (const partition of this.wanted()) {
      if (this.asking.has(partition) || this.resting.has(partition)) continue
      const leader = this.cluster.leaderOf(partition.topic, partition.index)
      if (leader < 0) {
        leaderless.push(partition)
        continue
      }
      const kind = partition.behind ? "atOnce" : "waiting"
      if (this.requests[kind].busy.has(leader)) continue
      const others = ready[kind].get(leader)
      if (others === undefined) ready[kind].set(leader, [partition])
      else others.push(partition)
    }
    for (const [leader, partitions] of ready.atOnce) this.read("atOnce", leader, partitions)
    for (const [leader, partitions] of ready.waiting) this.read("waiting", leader, partitions)
    if (leaderless.length > 0) this.later(leaderless)
  }

  /** Reads these again after a while, with news of their topics. The others go on. */
  private later(partitions: ReadonlyArray<Partition>): void {
    const topics = [...new Set(partitions.map(({ topic }) => topic))]
    const news = () =>
      this.cluster.refresh(topics).catch((error: unknown) => {
        this.problem = error
      })
    // What is known may do, should they not come: it may have been the connection.
    this.rest(partitions, () => Promise.race([news(), sleep(longestRefresh)]))
  }

  private async rest(partitions: ReadonlyArray<Partition>, mend: () => Promise<unknown>): Promise<void> {
    for (const partition of partitions) this.resting.add(partition)
    await sleep(pause)
    if (this.closed) return
    await mend()
    for (const partition of partitions) this.resting.delete(partition)
    this.poke()
  }

  private read(kind: Kind, leader: number, partitions: ReadonlyArray<Partition>): void {
    const { busy, pool } = this.requests[kind]
    busy.add(leader)
    for (const partition of partitions) this.asking.add(partition)
    const asked = new Map(partitions.map((partition) => [keyOf(partition.topicId, partition.index), partition]))
    const topics = [...Map.groupBy(partitions, ({ topicId }) => topicId)].map(([topicId, ofTopic]) => ({
      topicId,
      partitions: ofTopic.map((partition) => ({
        partition: partition.index,
        currentLeaderEpoch: -1,
        fetchOffset: BigInt(partition.position),
        lastFetchedEpoch: -1,
        partitionMaxBytes: this.bytesFor(partition)
      }))
    }))
    const request = this.cluster.at(
      pool,
      leader,
      fetchV16.api,
      kind === "atOnce" ? 0 : maxWait,
      1,
      requestBytes,
      readCommitted,
      0,
      -1,
      topics,
      [],
      ""
    )
    orPartly(request)
      .then((answer) => {
        this.problem = answer.errorCode === 0 ? undefined : refusalOf(answer.errorCode, null)
        const bad: Array<Partition> = answer.errorCode === 0 ? [] : [...partitions]
        const isAnyRead = answer.responses.some(({ partitions }) => partitions.some(({ records }) => records?.length))
        for (const { partitions: reads, topicId } of answer.responses) {
          for (const read of reads) {
            const partition = asked.get(keyOf(topicId, read.partitionIndex))
            if (partition !== undefined && !this.take(partition, read, isAnyRead)) bad.push(partition)
          }
        }
        if (bad.length > 0) this.later(bad)
      })
      .catch((error: unknown) => {
        this.problem = error
        this.later(partitions)
      })
      .finally(() => {
        busy.delete(leader)
        for (const partition of partitions) this.asking.delete(partition)
        this.poke()
      })
  }

  /** As much as there is room for, as far as can be told: what does not fit is sent and read in vain. */
  private bytesFor({ recordBytes, size }: Partition): number {
    const room = (this.cluster.settings.maxUncommitted - size) * recordBytes
    return Math.min(partitionBytes, Math.max(leastBytes, Math.ceil(room)))
  }

  /** False where it was not read, and is to be asked for again after a while. */
  private take(partition: Partition, read: Read, isAnyRead: boolean): boolean {
    // What comes for an earlier assignment counts no more.
    if (partition.closed) return true
    if (read.errorCode === offsetOutOfRange) {
      this.rest([partition], () => this.onGap(partition))
      return true
    }
    if (read.errorCode !== 0) {
      this.problem = refusalOf(read.errorCode, null)
      return false
    }
    const { position, records } = recordsOf(read)
    if (position !== undefined) {
      partition.add(records, position, this.cluster.settings.maxUncommitted)
      this.onRead()
    }
    // Without records there is nothing, or nothing yet, unless others have filled the answer.
    const isMoreThere = partition.position < Number(read.lastStableOffset) && (position !== undefined || isAnyRead)
    // What was left out of the requests that wait, since it had no room, is asked for at once when it has.
    partition.behind = isMoreThere || (position !== undefined && !this.hasRoom(partition))
    return true
  }

  async close(): Promise<void> {
    this.closed = true
    await Promise.all(Object.values(this.requests).map(({ pool }) => this.cluster.closePool(pool)))
  }
}

const offsetOutOfRange = 1
const keyOf = (topicId: string, index: number): string => `${topicId}/${index}`

/** The records of an answer but for those of transactions that were given up, and where to read on. */
export const recordsOf = ({
  abortedTransactions,
  records: batches
}: Read): { readonly records: ReadonlyArray<Record>; readonly position: number | undefined } => {
  const records: Array<Record> = []
  let position: number | undefined
  const aborted = [...(abortedTransactions ?? [])].toSorted((a, b) => Number(a.firstOffset - b.firstOffset))
  const givenUp = new Set<bigint>()
  for (const batch of batches ?? []) {
    const first = Number(batch.firstOffset)
    position = first + batch.lastOffsetDelta + 1
    for (let next = aborted[0]; next !== undefined && Number(next.firstOffset) < position; next = aborted[0]) {
      givenUp.add(next.producerId)
      aborted.shift()
    }
    if ((batch.attributes & IS_CONTROL) !== 0) {
      // Whichever way it ended, what follows of this producer is another transaction.
      givenUp.delete(batch.producerId)
      continue
    }
    if ((batch.attributes & IS_TRANSACTIONAL) !== 0 && givenUp.has(batch.producerId)) continue
    const since = Number(batch.firstTimestamp)
    for (const { headers, key, offsetDelta, timestampDelta, value } of batch.records) {
      records.push({ key, value, headers, offset: first + offsetDelta, timestamp: since + Number(timestampDelta) })
    }
  }
  return { records, position }
}
