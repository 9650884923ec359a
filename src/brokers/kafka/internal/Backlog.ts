/** What waits for a group: exact for the partitions that are read here, and the lag of the others; and how far it is in each. */
import type { Backlog, Group } from "../../../messaging/Driver.ts"
import type { PartitionLag } from "../Positions.ts"
import type { TopicInfo } from "./Cluster.ts"
import type { Consumption } from "./Consumption.ts"
import { retryTopicOf } from "./Names.ts"
import type { Partition } from "./Partition.ts"
import type { Parts } from "./Parts.ts"
import { read as readProgress } from "./Progress.ts"
import type { Committed } from "./Topology.ts"
import { earliest, latest } from "./Topology.ts"

/** What waits in the partitions of one subscription. */
export const backlogOfOne = async ({ cluster, topology }: Parts, { partitions }: Consumption): Promise<Backlog> => {
  const sum = new Sum()
  const now = Date.now()
  const ends = new Map<string, ReadonlyArray<number>>()
  for (const name of new Set([...partitions.values()].map(({ topic }) => topic))) {
    const topic = await cluster.findTopic(name)
    if (topic !== undefined) ends.set(name, await topology.offsets(topic, latest))
  }
  for (const partition of partitions.values())
    sum.addOurs(partition, ends.get(partition.topic)?.[partition.index] ?? 0, now)
  return sum.backlog
}

export const backlogOf = async (parts: Parts, group: Group): Promise<Backlog> => {
  const { cluster, topology } = parts
  const topic = await cluster.findTopic(group.topic)
  if (topic === undefined) return { waiting: 0, delayed: 0, inFlight: 0, oldest: undefined }
  const retry = await cluster.findTopic(retryTopicOf(group))
  const topics = retry === undefined ? [topic] : [topic, retry]
  const committed = await topology.committed(group, topics)
  const ends = await Promise.all(topics.map((one) => topology.offsets(one, latest)))
  const sum = new Sum()
  const now = Date.now()
  for (const [i, one] of topics.entries()) {
    const begins = await begin(parts, one, committed.get(one.name))
    for (const [index, end] of (ends[i] ?? []).entries()) {
      const ours = partitionOf(parts, group, one.name, index)
      if (ours === undefined) sum.addOther(end, committed.get(one.name)?.[index], begins[index] ?? 0)
      else sum.addOurs(ours, end, now)
    }
  }
  return sum.backlog
}

/** How far the group is in each partition of the topic and of its retries, by what it has committed. */
export const lagOf = async (parts: Parts, group: Group): Promise<ReadonlyArray<PartitionLag>> => {
  const { cluster, topology } = parts
  const topic = await topology.need(group.topic)
  const retry = await cluster.findTopic(retryTopicOf(group))
  const topics = retry === undefined ? [topic] : [topic, retry]
  const committed = await topology.committed(group, topics)
  const found: Array<PartitionLag> = []
  for (const one of topics) {
    const ends = await topology.offsets(one, latest)
    const begins = await begin(parts, one, committed.get(one.name))
    for (const [partition, end] of ends.entries()) {
      const known = committed.get(one.name)?.[partition]
      const lag = lagBehind(end, known, begins[partition] ?? 0)
      found.push({ topic: one.name, partition, committed: known?.offset, end, lag })
    }
  }
  return found
}

/** How many are not finished, those that are finished beyond the committed offset left aside. */
const lagBehind = (end: number, committed: Committed | undefined, begin: number): number => {
  const { from, open, reach } = readProgress(committed?.offset ?? begin, committed?.metadata ?? "")
  return Math.max(0, end - Math.max(from, reach)) + open.size
}

/** Where a partition begins, which matters where nothing was committed of it. */
const begin = (parts: Parts, topic: TopicInfo, committed: ReadonlyArray<Committed | undefined> | undefined) =>
  topic.leaders.some((_, index) => committed?.[index] === undefined) ? parts.topology.offsets(topic, earliest) : []

const partitionOf = (parts: Parts, group: Group, topic: string, index: number): Partition | undefined => {
  for (const { options, partitions } of parts.consumptions) {
    if (options.topic !== group.topic || options.group !== group.group) continue
    for (const partition of partitions.values())
      if (partition.topic === topic && partition.index === index && !partition.closed) return partition
  }
  return undefined
}

class Sum {
  private waiting = 0
  private delayed = 0
  private inFlight = 0
  /** Some are read elsewhere, and what is handed over there is not known. */
  private elsewhere = false

  addOurs(partition: Partition, end: number, now: number): void {
    this.waiting += Math.max(0, end - partition.position) + partition.waiting
    this.delayed += partition.delayed(now)
    this.inFlight += partition.held
  }

  addOther(end: number, committed: Committed | undefined, begin: number): void {
    const lag = lagBehind(end, committed, begin)
    this.waiting += lag
    this.elsewhere ||= lag > 0
  }

  get backlog(): Backlog {
    const known = !this.elsewhere
    return {
      waiting: this.waiting,
      delayed: known ? this.delayed : undefined,
      inFlight: known ? this.inFlight : undefined,
      oldest: undefined
    }
  }
}
