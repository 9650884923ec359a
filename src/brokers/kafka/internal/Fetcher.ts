/**
 * Reads the partitions that have room: one request a server at a time. One that has no room is left out of the requests, and
 * the others go on.
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

/** How long a server waits for something new, and so how long a partition may wait that gets room meanwhile. */
const maxWait = 250
const requestTimeout = 5_000
const partitionBytes = 1024 * 1024
const requestBytes = 8 * 1024 * 1024
const readCommitted = 1
const pause = 100
const longestRefresh = 1_000

export class Fetcher {
  /** Why it cannot read. */
  problem: unknown = undefined
  private readonly cluster: Cluster
  private readonly pool: ConnectionPool
  private readonly wanted: () => ReadonlyArray<Partition>
  private readonly onRead: () => void
  /** The partition begins elsewhere than where it was to be read. */
  private readonly onGap: (partition: Partition) => Promise<void>
  private readonly busy = new Set<number>()
  /** Left out for a moment, since something was wrong with them. */
  private readonly resting = new Set<Partition>()
  private closed = false

  constructor(
    cluster: Cluster,
    handlers: {
      readonly wanted: () => ReadonlyArray<Partition>
      readonly onRead: () => void
      readonly onGap: (partition: Partition) => Promise<void>
    }
  ) {
    this.cluster = cluster
    this.pool = cluster.pool(requestTimeout)
    this.wanted = handlers.wanted
    this.onRead = handlers.onRead
    this.onGap = handlers.onGap
  }

  /** Something may have room. */
  poke(): void {
    if (this.closed) return
    const byLeader = new Map<number, Array<Partition>>()
    const leaderless: Array<Partition> = []
    for (const partition of this.wanted()) {
      if (this.resting.has(partition)) continue
      const leader = this.cluster.leaderOf(partition.topic, partition.index)
      if (leader < 0) leaderless.push(partition)
      else if (!this.busy.has(leader)) {
        const others = byLeader.get(leader)
        if (others === undefined) byLeader.set(leader, [partition])
        else others.push(partition)
      }
    }
    for (const [leader, partitions] of byLeader) this.read(leader, partitions)
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

  private read(leader: number, partitions: ReadonlyArray<Partition>): void {
    this.busy.add(leader)
    const asked = new Map(partitions.map((partition) => [keyOf(partition.topicId, partition.index), partition]))
    const topics = [...Map.groupBy(partitions, ({ topicId }) => topicId)].map(([topicId, ofTopic]) => ({
      topicId,
      partitions: ofTopic.map(({ index, position }) => ({
        partition: index,
        currentLeaderEpoch: -1,
        fetchOffset: BigInt(position),
        lastFetchedEpoch: -1,
        partitionMaxBytes: partitionBytes
      }))
    }))
    const request = this.cluster.at(
      this.pool,
      leader,
      fetchV16.api,
      maxWait,
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
        for (const { partitions: reads, topicId } of answer.responses) {
          for (const read of reads) {
            const partition = asked.get(keyOf(topicId, read.partitionIndex))
            if (partition !== undefined && !this.take(partition, read)) bad.push(partition)
          }
        }
        if (bad.length > 0) this.later(bad)
      })
      .catch((error: unknown) => {
        this.problem = error
        this.later(partitions)
      })
      .finally(() => {
        this.busy.delete(leader)
        this.poke()
      })
  }

  /** False where it was not read, and is to be asked for again after a while. */
  private take(partition: Partition, read: Read): boolean {
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
    return true
  }

  async close(): Promise<void> {
    this.closed = true
    await this.cluster.closePool(this.pool)
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
