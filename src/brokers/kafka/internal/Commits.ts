/**
 * Writes the progress of a subscription's partitions: in the background while there is something new, and at once where they are
 * given up. One request after the other.
 */
import { offsetCommitV9 } from "@platformatic/kafka"
import type { Cluster } from "./Cluster.ts"
import { hasCode } from "./errors.ts"
import type { Membership } from "./Membership.ts"
import type { Partition } from "./Partition.ts"
import { sleep } from "./sleep.ts"

/**
 * How often all is written again, changed or not. Servers delete an offset by the time when it was written, 7 days unless they
 * say otherwise, as soon as the group has no members for a moment.
 */
const refresh = 6 * 3_600_000

export class Commits {
  private readonly cluster: Cluster
  private readonly groupId: string
  private readonly membership: Membership
  private readonly partitions: () => ReadonlyArray<Partition>
  private timer: NodeJS.Timeout | undefined
  private readonly refresher: NodeJS.Timeout
  private running: Promise<void> = Promise.resolve()
  private closed = false

  /** `partitions` are those that are ours now. */
  constructor(cluster: Cluster, groupId: string, membership: Membership, partitions: () => ReadonlyArray<Partition>) {
    this.cluster = cluster
    this.groupId = groupId
    this.membership = membership
    this.partitions = partitions
    this.refresher = setInterval(() => {
      for (const partition of partitions()) partition.dirty = true
      this.soon()
    }, refresh)
    this.refresher.unref()
  }

  /** Something was finished. */
  soon(): void {
    if (this.closed) return
    this.timer ??= setTimeout(() => {
      this.timer = undefined
      this.write(this.partitions())
    }, this.cluster.settings.commitInterval)
  }

  /** Writes what has changed of these, again and again for a while. */
  async flush(partitions: () => ReadonlyArray<Partition>, patience: number): Promise<void> {
    const until = performance.now() + patience
    while (performance.now() < until && this.membership.epoch > 0) {
      const dirty = partitions().filter(({ dirty }) => dirty)
      if (dirty.length === 0) return
      await this.write(dirty)
      if (dirty.some(({ dirty }) => dirty)) await sleep(20)
    }
  }

  /** After what is being written. */
  private write(partitions: ReadonlyArray<Partition>): Promise<void> {
    this.running = this.running.then(() => this.writeNow(partitions))
    return this.running
  }

  private async writeNow(partitions: ReadonlyArray<Partition>): Promise<void> {
    const dirty = partitions.filter(({ closed, dirty }) => dirty && !closed)
    const { epoch, memberId, pool } = this.membership
    if (dirty.length === 0 || epoch === 0) return
    const topics = [...Map.groupBy(dirty, ({ topic }) => topic)].map(([name, ofTopic]) => ({
      name,
      partitions: ofTopic.map((partition) => {
        const { metadata, offset } = partition.commit()
        return {
          partitionIndex: partition.index,
          committedOffset: BigInt(offset),
          committedLeaderEpoch: -1,
          committedMetadata: metadata
        }
      })
    }))
    try {
      const node = await this.membership.where()
      await this.cluster.at(pool, node, offsetCommitV9.api, this.groupId, epoch, memberId, null, topics)
    } catch (error) {
      for (const partition of dirty) partition.dirty = true
      // With the next heartbeat there is a new epoch.
      if (hasCode(error, "STALE_MEMBER_EPOCH")) this.membership.wake()
      else this.membership.failed(error, epoch)
      this.soon()
    }
  }

  /** From here on only `flush` writes. */
  close(): void {
    this.closed = true
    clearTimeout(this.timer)
    clearInterval(this.refresher)
  }
}
