/** What waits for a group: exact for the partitions that are read here, and the lag of the others. */
import type { Backlog, Group } from "../../../messaging/Driver.ts"
import type { TopicInfo } from "./Cluster.ts"
import { retryTopicOf } from "./Names.ts"
import type { Partition } from "./Partition.ts"
import type { Parts } from "./Parts.ts"
import { read as readProgress } from "./Progress.ts"
import type { Committed } from "./Topology.ts"
import { earliest, latest } from "./Topology.ts"

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

/** Where a partition begins, which matters where nothing was committed of it. */
const begin = (parts: Parts, topic: TopicInfo, committed: ReadonlyArray<Committed | undefined> | undefined) =>
  topic.leaders.some((_, index) => committed?.[index] === undefined) ? parts.topology.offsets(topic, earliest) : []

const partitionOf = (parts: Parts, group: Group, topic: string, index: number): Partition | undefined => {
  for (const { options, partitions } of parts.consumptions) {
    if (options.topic !== group.topic || options.group !== group.group) continue
    for (const partition of partitions.values())
      if (partition.topic === topic && partition.index === index) return partition
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
    const { from, open, reach } = readProgress(committed?.offset ?? begin, committed?.metadata ?? "")
    const lag = Math.max(0, end - Math.max(from, reach)) + open.size
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
