/**
 * Which partitions a subscription reads: what the server assigns is asked how far the group has got, and read from there; what
 * it takes away is given up when its handlers have ended.
 *
 * ```text
 *   assigned ──▶ loading ──▶ ours ──▶ revoking ──▶ given up: the server may give it to another
 *                             ▲           │
 *                             └───────────┘ assigned again before that: nothing has happened
 *
 *   fenced: nothing of all this is ours any more, at once
 * ```
 */
import { offsetFetchV9 } from "@platformatic/kafka"
import type { SubscribeOptions } from "../../../messaging/Driver.ts"
import type { Cluster } from "./Cluster.ts"
import type { Commits } from "./Commits.ts"
import type { Assigned, Membership } from "./Membership.ts"
import { groupIdOf, retryTopicOf } from "./Names.ts"
import type { KafkaDelivery } from "./Partition.ts"
import { Partition } from "./Partition.ts"
import type { Progress } from "./Progress.ts"
import { read as readProgress } from "./Progress.ts"
import { sleep } from "./sleep.ts"
import type { Topology } from "./Topology.ts"
import { committedOf, earliest, latest } from "./Topology.ts"

/** How long the last progress of a partition that is given up may take to be written. */
const lastCommit = 2_000

export class Assignment {
  /** Ours, those included that are being given up. */
  readonly partitions = new Map<string, Partition>()
  private readonly options: SubscribeOptions
  private readonly cluster: Cluster
  private readonly topology: Topology
  private readonly membership: Membership
  private readonly commits: Commits
  private readonly onLost: (deliveries: ReadonlyArray<KafkaDelivery>) => void
  private readonly onChange: () => void
  private readonly log: (message: string) => void
  /** Assigned, and how far the group has got is not known yet. The object is this time's: another one is another time's. */
  private readonly loading = new Map<string, Assigned>()
  private closed = false

  constructor(
    options: SubscribeOptions,
    parts: {
      readonly cluster: Cluster
      readonly topology: Topology
      readonly membership: Membership
      readonly commits: Commits
      readonly log: (message: string) => void
      /** These were handed over, and are not ours any more. */
      readonly onLost: (deliveries: ReadonlyArray<KafkaDelivery>) => void
      /** There may be more to read or to hand over. */
      readonly onChange: () => void
    }
  ) {
    this.options = options
    this.cluster = parts.cluster
    this.topology = parts.topology
    this.membership = parts.membership
    this.commits = parts.commits
    this.log = parts.log
    this.onLost = parts.onLost
    this.onChange = parts.onChange
  }

  get isLoading(): boolean {
    return this.loading.size > 0
  }

  /** What the server should know to be ours. */
  get owned(): ReadonlyArray<Assigned> {
    return [
      ...[...this.partitions.values()].map(({ index, topicId }) => ({ topicId, index })),
      ...this.loading.values()
    ]
  }

  /** The server wants us to read these, and no others. */
  assign(list: ReadonlyArray<Assigned>): void {
    if (this.closed) return
    const wanted = new Map(list.map((one) => [keyOf(one), one]))
    const gone: Array<Partition> = []
    for (const [key, partition] of this.partitions) {
      // It may have been about to be given up, and is to be kept after all.
      if (wanted.has(key)) partition.revocation = undefined
      else if (!partition.revoking) gone.push(partition)
    }
    for (const key of this.loading.keys()) if (!wanted.has(key)) this.loading.delete(key)
    // Those of the same number have the same keys, and go together.
    for (const together of Map.groupBy(gone, ({ index }) => index).values()) this.giveUp(together)
    const fresh = list.filter((one) => !this.partitions.has(keyOf(one)) && !this.loading.has(keyOf(one)))
    if (fresh.length > 0) this.load(fresh)
    this.membership.tell()
    this.onChange()
  }

  /** The server does not know us any more. */
  fence(): void {
    this.loading.clear()
    this.drop([...this.partitions.values()])
  }

  /** Reads where the group has got to in these. */
  private async load(list: ReadonlyArray<Assigned>): Promise<void> {
    for (const one of list) this.loading.set(keyOf(one), one)
    const left = () => list.filter((one) => this.loading.get(keyOf(one)) === one)
    while (!this.closed && left().length > 0) {
      const { epoch } = this.membership
      try {
        await this.loadOnce(left())
      } catch (error) {
        this.membership.failed(error, epoch)
        // With the next heartbeat there may be another epoch.
        this.membership.wake()
        await sleep(100)
      }
    }
  }

  private async loadOnce(list: ReadonlyArray<Assigned>): Promise<void> {
    if (list.some(({ topicId }) => this.cluster.nameOf(topicId) === undefined)) {
      await this.cluster.refresh([this.options.topic, retryTopicOf(this.options)])
    }
    const byTopic = Map.groupBy(list, ({ topicId }) => this.cluster.nameOf(topicId) ?? "")
    const topics = [...byTopic].map(([name, ofTopic]) => ({
      name,
      partitionIndexes: ofTopic.map(({ index }) => index)
    }))
    const { epoch, memberId, pool } = this.membership
    const request = [{ groupId: groupIdOf(this.options), memberId, memberEpoch: epoch, topics }]
    const answer = await this.cluster.at(pool, await this.membership.where(), offsetFetchV9.api, request, true)
    const committed = committedOf(answer.groups[0]?.topics ?? [])
    let added = false
    try {
      for (const [topic, ofTopic] of byTopic) {
        const found = committed.get(topic)
        // A partition that the topic has got since.
        const info = ofTopic.some(({ index }) => found?.[index] === undefined)
          ? await this.cluster.findTopic(topic)
          : undefined
        const begins = info === undefined ? [] : await this.topology.offsets(info, earliest)
        for (const one of ofTopic) {
          const key = keyOf(one)
          if (this.closed || this.loading.get(key) !== one) continue
          this.loading.delete(key)
          const { metadata, offset } = found?.[one.index] ?? {
            offset: Math.max(0, begins[one.index] ?? 0),
            metadata: ""
          }
          const partition = this.make(one, topic, readProgress(offset, metadata))
          // Where it begins is written at once: should the process die, the next one begins there too. And what was written
          // long ago, while nothing came, would not outlive the server's retention of offsets for long.
          partition.dirty = true
          this.commits.soon()
          this.partitions.set(key, partition)
          added = true
        }
      }
    } finally {
      if (added) this.onChange()
    }
  }

  private make({ index, topicId }: Assigned, topic: string, progress: Progress): Partition {
    const { order, perKey = Number.POSITIVE_INFINITY, topic: origin } = this.options
    return new Partition({ index, topicId, topic, origin, ordered: order === "key", perKey, progress })
  }

  /** Lets what is handed over end within a time, writes the progress, and gives them up. */
  private async giveUp(partitions: ReadonlyArray<Partition>): Promise<void> {
    const revocation = {}
    for (const partition of partitions) partition.revocation = revocation
    const going = () => partitions.filter((one) => one.revocation === revocation && !one.closed)
    const until = performance.now() + this.cluster.settings.revokeTimeout
    while (!this.closed && going().some(({ held }) => held > 0) && performance.now() < until) await sleep(10)
    await this.commits.flush(going, lastCommit)
    // Closing gives up everything by itself.
    if (this.closed || going().length === 0) return
    this.drop(going())
    this.membership.tell()
  }

  private drop(partitions: ReadonlyArray<Partition>): void {
    const lost: Array<KafkaDelivery> = []
    for (const partition of partitions) {
      lost.push(...partition.deliveries)
      partition.closed = true
      this.partitions.delete(keyOf(partition))
    }
    if (lost.length > 0) this.onLost(lost)
    this.onChange()
  }

  /** What was to be read next is not there: it was deleted before the group has read it, or was never there. */
  async goOn(partition: Partition): Promise<void> {
    const info = await this.cluster.findTopic(partition.topic)
    if (info === undefined || partition.closed) return
    const [begins, ends] = await Promise.all([
      this.topology.offsets(info, earliest),
      this.topology.offsets(info, latest)
    ])
    const [begin = -1, end = -1] = [begins[partition.index], ends[partition.index]]
    const { index, position, topic } = partition
    if (begin < 0 || end < 0 || partition.closed || this.closed || (position >= begin && position <= end)) return
    const why =
      position < begin
        ? "the topic's retention has deleted messages that the group has not read"
        : "the log was cut off, or the topic was deleted and made anew, so what is there may come again"
    this.log(
      `Kafka: group "${this.options.group}" was at ${position} of ${topic}/${index} and goes on at ${begin}: ${why}`
    )
    if (position < begin) partition.skipTo(begin)
    else {
      // Not from the end: what was written until this was noticed has been handled by nobody.
      // Nothing that is known of it tells of what will be written from there on.
      this.drop([partition])
      const again = this.make(partition, topic, { from: begin, reach: begin, open: new Set(), tried: new Map() })
      again.dirty = true
      this.partitions.set(keyOf(again), again)
    }
    this.commits.soon()
  }

  /** Nothing is read any more; what is ours stays until it is dropped. */
  close(): void {
    this.closed = true
    this.loading.clear()
  }
}

const keyOf = ({ index, topicId }: Assigned): string => `${topicId}/${index}`
