/**
 * Topics and groups: made where they are missing, and where each group begins.
 *
 * ```text
 *   topic TOPIC ──────────────┐
 *   topic TOPIC..GROUP..retry ┴──▶ consumer group TOPIC..GROUP ──▶ members
 *   topic TOPIC..GROUP..dead       dead letters, which nobody consumes
 * ```
 */
import {
  createTopicsV7,
  deleteGroupsV2,
  deleteTopicsV6,
  listGroupsV5,
  listOffsetsV8,
  offsetCommitV9,
  offsetFetchV9
} from "@platformatic/kafka"
import type { Group, SubscribeOptions } from "../../../messaging/Driver.ts"
import type { Cluster, TopicInfo } from "./Cluster.ts"
import { hasCode, Refusal, rejected } from "./errors.ts"
import { deadTopicOf, groupIdOf, groupOf, retryTopicOf } from "./Names.ts"

/** Where offsets begin, in the words of the protocol; other numbers are times. */
export const earliest = -2
export const latest = -1

/** What a group has committed of a partition. */
export interface Committed {
  readonly offset: number
  readonly metadata: string
}

const timeout = 9_000
/** Payloads share their room with headers, of which a dead letter has many. */
const headerBytes = 64 * 1024

export class Topology {
  private readonly cluster: Cluster

  constructor(cluster: Cluster) {
    this.cluster = cluster
  }

  /** The topic, made where it is missing and may be made. */
  async need(name: string, configs: Readonly<Record<string, string>> = {}, partitions?: number): Promise<TopicInfo> {
    const { createTopics, maxMessageBytes } = this.cluster.settings
    const found = await this.cluster.findTopic(name)
    if (found !== undefined) {
      if (found.leaders.includes(-1)) throw this.notYet(name)
      return found
    }
    if (createTopics === undefined) throw new Refusal("UNKNOWN_TOPIC_OR_PARTITION", `topic "${name}" does not exist`)
    const all =
      maxMessageBytes > 1_000_000 ? { "max.message.bytes": String(maxMessageBytes + headerBytes), ...configs } : configs
    const request = {
      name,
      numPartitions: partitions ?? createTopics.partitions,
      replicationFactor: createTopics.replication,
      assignments: [],
      configs: Object.entries(all).map(([name, value]) => ({ name, value }))
    }
    await this.cluster.any(createTopicsV7.api, [request], timeout, false).catch((error: unknown) => {
      if (!hasCode(error, "TOPIC_ALREADY_EXISTS")) throw error
    })
    for (let i = 0; i < 100; i++) {
      await this.cluster.refresh([name])
      const info = this.cluster.topic(name)
      if (info !== undefined && !info.leaders.includes(-1)) return info
      // The servers hear of it one after the other.
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    throw this.notYet(name)
  }

  private notYet(name: string): Refusal {
    this.cluster.forget(name)
    return new Refusal("LEADER_NOT_AVAILABLE", `topic "${name}" has partitions that no server leads now`)
  }

  /** The topic of a group's retries has as many partitions as the topic, so that one member has both of a key. */
  async needRetryTopic(group: Group): Promise<TopicInfo> {
    const topic = await this.need(group.topic)
    return this.need(retryTopicOf(group), {}, topic.leaders.length)
  }

  /** Letters stay until they are removed: each has a key of its own, and is removed by an empty record of that key. */
  needDeadTopic(group: Group): Promise<TopicInfo> {
    return this.need(deadTopicOf(group), { "cleanup.policy": "compact" }, 1)
  }

  /** Makes what a group needs, and decides where it begins if it is new. */
  async needGroup(group: Group, replay: SubscribeOptions["replay"]): Promise<void> {
    const topic = await this.need(group.topic)
    const retry = await this.needRetryTopic(group)
    await this.needDeadTopic(group)
    // Before asking whether the group exists: should another process begin it meanwhile, ours begins no later than that.
    const ends = await this.offsets(topic, latest)
    const retryEnds = await this.offsets(retry, latest)
    if (isAnywhere((await this.committed(group, [topic])).get(topic.name))) return
    const groups = await this.groups(group.topic)
    const isKnown = groups.includes(group.group)
    const committed = await this.committed(group, [topic, retry])
    // Another process may have begun it meanwhile.
    if (isAnywhere(committed.get(topic.name))) return
    // What is known and has no offset had members who never got to write one; what came since then is theirs too. And nobody
    // has asked for a topic without groups before, so that its first one gets what it has kept.
    const getsAll = replay === undefined && (isKnown || groups.length === 0)
    const starts = getsAll ? await this.offsets(topic, earliest) : await this.startsOf(topic, replay, ends)
    // Retries may have outlived where it was in the topic: those stay, and where that is not known either, come again.
    const known = committed.get(retry.name)
    const retryStarts = isKnown ? await this.offsets(retry, earliest) : retryEnds
    await this.commitAsNobody(group, [
      [topic, starts],
      [retry, retryStarts.map((start, i) => (known?.[i] === undefined ? start : undefined))]
    ]).catch((error: unknown) => {
      // It has members: they have begun it.
      if (!hasCode(error, ...hasMembers)) throw error
    })
  }

  /** Puts a group without members, which may be new, to these offsets. Where none is given it stays, a new one at the end. */
  async moveTo(group: Group, offsets: ReadonlyArray<number | undefined>): Promise<void> {
    await this.needGroup(group, undefined)
    const topic = await this.need(group.topic)
    const refused = (text: string) => rejected({ operation: "move a group", topic: group.topic }, "Refused", text)
    if (offsets.length > topic.leaders.length) {
      throw refused(`the topic has ${topic.leaders.length} partitions, and offsets were given for ${offsets.length}`)
    }
    const ends = await this.offsets(topic, latest)
    offsets.forEach((offset = 0, i) => {
      // From there it would begin again from the beginning, as where a log was cut off.
      if (offset > (ends[i] ?? 0)) throw refused(`partition ${i} ends at ${ends[i]}, and offset ${offset} was given`)
    })
    await this.commitAsNobody(group, [[topic, offsets]]).catch((error: unknown) => {
      if (!hasCode(error, ...hasMembers)) throw error
      throw new Refusal("NON_EMPTY_GROUP", `group "${group.group}" of ${group.topic} has members`)
    })
  }

  private startsOf(
    topic: TopicInfo,
    replay: SubscribeOptions["replay"],
    ends: ReadonlyArray<number>
  ): Promise<ReadonlyArray<number>> | ReadonlyArray<number> {
    if (replay === undefined) return ends
    if (replay === "earliest") return this.offsets(topic, earliest)
    // After the last message there is none from that time on, and the answer is none.
    return this.offsets(topic, Math.max(0, replay.getTime())).then((found) =>
      found.map((offset, i) => (offset < 0 ? (ends[i] ?? 0) : offset))
    )
  }

  private async commitAsNobody(
    group: Group,
    topics: ReadonlyArray<readonly [TopicInfo, ReadonlyArray<number | undefined>]>
  ): Promise<void> {
    const groupId = groupIdOf(group)
    const node = await this.cluster.coordinatorOf(groupId)
    const offsets = topics.map(([{ name }, starts]) => ({
      name,
      partitions: starts.flatMap((offset, partitionIndex) =>
        offset === undefined
          ? []
          : [{ partitionIndex, committedOffset: BigInt(offset), committedLeaderEpoch: -1, committedMetadata: "" }]
      )
    }))
    await this.cluster.at(this.cluster.control, node, offsetCommitV9.api, groupId, -1, "", null, offsets)
  }

  /** By partition: the first offset, the one after the last, or the first that was written at a time or later. */
  async offsets({ leaders, name }: TopicInfo, at: number): Promise<ReadonlyArray<number>> {
    const found: Array<number> = new Array(leaders.length).fill(-1)
    await Promise.all(
      [...new Set(leaders)].map(async (node) => {
        const partitions = leaders.flatMap((leader, partitionIndex) =>
          leader === node ? [{ partitionIndex, currentLeaderEpoch: -1, timestamp: BigInt(at) }] : []
        )
        const { topics } = await this.cluster
          .at(this.cluster.control, node, listOffsetsV8.api, -1, 0, [{ name, partitions }])
          .catch((error: unknown) => {
            // It was there: it is being deleted, or has just been, and is asked for anew.
            if (hasCode(error, "UNKNOWN_TOPIC_OR_PARTITION")) throw this.notYet(name)
            this.cluster.forget(name)
            throw error
          })
        for (const { offset, partitionIndex } of topics[0]?.partitions ?? []) found[partitionIndex] = Number(offset)
      })
    )
    return found
  }

  /** What the group has committed, by topic and partition. */
  async committed(
    group: Group,
    topics: ReadonlyArray<TopicInfo>
  ): Promise<ReadonlyMap<string, ReadonlyArray<Committed | undefined>>> {
    const groupId = groupIdOf(group)
    const node = await this.cluster.coordinatorOf(groupId)
    const asked = topics.map(({ leaders, name }) => ({ name, partitionIndexes: leaders.map((_, i) => i) }))
    const request = [{ groupId, memberId: null, memberEpoch: -1, topics: asked }]
    const { groups } = await this.cluster.at(this.cluster.control, node, offsetFetchV9.api, request, true)
    return committedOf(groups[0]?.topics ?? [])
  }

  /** The groups of a topic that the servers know. */
  async groups(topic: string): Promise<ReadonlyArray<string>> {
    await this.cluster.refresh([])
    const lists = await Promise.all(
      this.cluster.nodes.map((node) => this.cluster.at(this.cluster.control, node, listGroupsV5.api, [], []))
    )
    const found = lists.flatMap(({ groups }) => groups.filter(({ groupState }) => groupState !== "Dead"))
    return found.flatMap(({ groupId }) => groupOf(topic, groupId) ?? [])
  }

  /** Deletes a group with its retries. */
  async remove(group: Group): Promise<void> {
    const groupId = groupIdOf(group)
    const node = await this.cluster.coordinatorOf(groupId)
    await this.cluster.at(this.cluster.control, node, deleteGroupsV2.api, [groupId]).catch((error: unknown) => {
      if (!hasCode(error, "GROUP_ID_NOT_FOUND")) throw error
    })
    if (this.cluster.settings.createTopics === undefined) return
    const name = retryTopicOf(group)
    await this.cluster.any(deleteTopicsV6.api, [{ name, topicId: null }], timeout).catch((error: unknown) => {
      if (!hasCode(error, "UNKNOWN_TOPIC_OR_PARTITION", "TOPIC_AUTHORIZATION_FAILED")) throw error
    })
    this.cluster.forget(name)
  }
}

/** What a commit by nobody is answered where the group has members. */
const hasMembers = ["UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "STALE_MEMBER_EPOCH", "FENCED_MEMBER_EPOCH"]

/** Of a topic's partitions, some have an offset. */
const isAnywhere = (committed: ReadonlyArray<Committed | undefined> | undefined): boolean =>
  [...(committed ?? [])].some((one) => one !== undefined)

interface FetchedTopic {
  readonly name: string
  readonly partitions: ReadonlyArray<{
    readonly partitionIndex: number
    readonly committedOffset: bigint
    readonly metadata?: string | null | undefined
  }>
}

export const committedOf = (
  topics: ReadonlyArray<FetchedTopic>
): ReadonlyMap<string, ReadonlyArray<Committed | undefined>> =>
  new Map(
    topics.map(({ name, partitions }) => {
      const found: Array<Committed | undefined> = []
      for (const { committedOffset, metadata, partitionIndex } of partitions) {
        found[partitionIndex] =
          committedOffset < 0n ? undefined : { offset: Number(committedOffset), metadata: metadata ?? "" }
      }
      return [name, found]
    })
  )
