/**
 * The dead letters of groups, each group's in a topic of its own that is compacted: every letter has a key of its own, and is
 * removed by a record of that key without a value.
 */
import { Buffer } from "node:buffer"
import { fetchV16 } from "@platformatic/kafka"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { DeadLetterStore, Group, StoredLetter } from "../../../messaging/Driver.ts"
import type { Cluster, TopicInfo } from "./Cluster.ts"
import { isStale, orPartly } from "./Cluster.ts"
import { refusalOf } from "./errors.ts"
import { recordsOf } from "./Fetcher.ts"
import { deadTopicOf, groupOfDeadTopic, invalidName } from "./Names.ts"
import type { Topology } from "./Topology.ts"
import { latest } from "./Topology.ts"
import type { Record } from "./Wire.ts"
import { messageOf } from "./Wire.ts"

interface Place {
  readonly partition: number
  readonly offset: number
}

/** Which letters are there, as far as it was read. */
interface Index {
  readonly topicId: string
  /** By partition, where to read on. */
  readonly next: Array<number>
  /** By key, in the order in which they were written. */
  readonly live: Map<string, Place>
}

/** Removes the letter of a key; resolves when that is confirmed. */
export type Remove = (topic: TopicInfo, partition: number, key: Buffer) => Promise<void>

const requestBytes = 4 * 1024 * 1024

export class Letters {
  private readonly cluster: Cluster
  private readonly topology: Topology
  private readonly indexes = new Map<string, Index>()
  private readonly reading = new Map<string, Promise<void>>()

  constructor(cluster: Cluster, topology: Topology) {
    this.cluster = cluster
    this.topology = topology
  }

  store(remove: Remove): DeadLetterStore {
    return {
      read: (group, after) => this.read(group, after),
      remove: (group, positions) => this.remove(group, positions, remove),
      groups: (topic) => this.groups(topic)
    }
  }

  private async find(group: Group): Promise<{ readonly topic: TopicInfo; readonly index: Index } | undefined> {
    const name = deadTopicOf(group)
    const topic = await this.cluster.findTopic(name)
    if (topic === undefined) return undefined
    // Two that ask at the same time read it once.
    let reading = this.reading.get(name)
    if (reading === undefined) {
      reading = this.update(topic).finally(() => this.reading.delete(name))
      this.reading.set(name, reading)
    }
    await reading
    const index = this.indexes.get(name)
    return index === undefined ? undefined : { topic, index }
  }

  /** Reads what has come since the last time. */
  private async update(topic: TopicInfo): Promise<void> {
    let index = this.indexes.get(topic.name)
    if (index === undefined || index.topicId !== topic.id) {
      index = { topicId: topic.id, next: [], live: new Map() }
      this.indexes.set(topic.name, index)
    }
    const ends = await this.topology.offsets(topic, latest)
    for (const [partition, end] of ends.entries()) {
      let next = index.next[partition] ?? 0
      while (next < end) {
        const { position, records } = await this.fetch(topic, partition, next)
        if (position === undefined) break
        for (const { key, offset, value } of records) {
          // One without a key is of another program, and cannot be removed.
          const text = key === null ? `${partition}@${offset}` : hexOf(key)
          if (offset < next) continue
          if (value === null) index.live.delete(text)
          else index.live.set(text, { partition, offset })
        }
        next = position
        index.next[partition] = next
      }
    }
  }

  private async fetch(topic: TopicInfo, partition: number, offset: number) {
    const topics = [
      {
        topicId: topic.id,
        partitions: [
          {
            partition,
            currentLeaderEpoch: -1,
            fetchOffset: BigInt(offset),
            lastFetchedEpoch: -1,
            partitionMaxBytes: requestBytes
          }
        ]
      }
    ]
    const leader = this.cluster.leaderOf(topic.name, partition)
    const request = this.cluster.at(
      this.cluster.control,
      leader,
      fetchV16.api,
      0,
      1,
      requestBytes,
      1,
      0,
      -1,
      topics,
      [],
      ""
    )
    const read = (await orPartly(request)).responses[0]?.partitions[0]
    if (read === undefined) return { records: [], position: undefined }
    if (read.errorCode === offsetOutOfRange && Number(read.logStartOffset) > offset) {
      return { records: [], position: Number(read.logStartOffset) }
    }
    if (read.errorCode !== 0) {
      const error = refusalOf(read.errorCode, null)
      if (isStale(error)) this.cluster.forget(topic.name)
      throw error
    }
    return recordsOf(read)
  }

  private read(group: Group, after: string | undefined): Stream.Stream<StoredLetter, BrokerError> {
    const about = { operation: "read dead letters", topic: group.topic }
    const wrong = invalidName(about.operation, group.topic, group.group)
    if (wrong !== undefined) return Stream.fail(wrong)
    const begin = this.cluster.patiently(about, () => this.find(group))
    return Stream.unwrap(
      Effect.map(begin, (found) => {
        if (found === undefined) return Stream.empty
        const { index, topic } = found
        const last = after === undefined ? undefined : placeOf(after)
        if (after !== undefined && last === undefined) return Stream.empty
        // As they are now: what dies later is not read.
        const places = [...index.live].toSorted(([, a], [, b]) => a.partition - b.partition || a.offset - b.offset)
        const wanted = places.filter(([, place]) => last === undefined || isAfter(place, last))
        return Stream.paginate(0, (at: number) =>
          Effect.map(
            this.cluster.patiently(about, () => this.page(topic, wanted, at)),
            ({ letters, next }) => [letters, next < wanted.length ? Option.some(next) : Option.none()] as const
          )
        )
      })
    )
  }

  /** The letters of these places from one on: as many as one request brings. */
  private async page(topic: TopicInfo, wanted: ReadonlyArray<readonly [key: string, Place]>, at: number) {
    const first = wanted[at]?.[1]
    if (first === undefined) return { letters: [], next: at + 1 }
    const { position, records } = await this.fetch(topic, first.partition, first.offset)
    const byOffset = new Map(records.map((record) => [record.offset, record]))
    const letters: Array<StoredLetter> = []
    let next = at
    for (; next < wanted.length; next++) {
      const [key, place] = wanted[next] ?? ["", first]
      if (place.partition !== first.partition || place.offset >= (position ?? 0)) break
      const record = byOffset.get(place.offset)
      // It may have been removed since.
      if (record?.value != null) letters.push(letterOf(topic.name, key, place, record))
    }
    return { letters, next: Math.max(next, at + 1) }
  }

  private remove(group: Group, positions: ReadonlyArray<string>, remove: Remove): Effect.Effect<number, BrokerError> {
    const about = { operation: "remove dead letters", topic: group.topic }
    return this.cluster.patiently(about, async () => {
      const found = await this.find(group)
      if (found === undefined) return 0
      const { index, topic } = found
      const there = [...new Set(positions)].filter((position) => {
        const place = placeOf(position)
        return place !== undefined && index.live.get(place.key)?.offset === place.offset && !place.key.includes("@")
      })
      await Promise.all(
        there.map(async (position) => {
          const { key = "", partition = 0 } = placeOf(position) ?? {}
          await remove(topic, partition, Buffer.from(key, "hex"))
          index.live.delete(key)
        })
      )
      return there.length
    })
  }

  private groups(topic: string): Effect.Effect<ReadonlyArray<string>, BrokerError> {
    return this.cluster.patiently({ operation: "list dead letters", topic }, async () => {
      const names = await this.cluster.refresh(undefined)
      const groups = names.flatMap((name) => groupOfDeadTopic(topic, name) ?? [])
      const sizes = await Promise.all(groups.map((group) => this.find({ topic, group })))
      return groups.filter((_, i) => (sizes[i]?.index.live.size ?? 0) > 0)
    })
  }
}

const offsetOutOfRange = 1

const hexOf = (key: Uint8Array): string => Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("hex")

const letterOf = (topic: string, key: string, { offset, partition }: Place, record: Record): StoredLetter => ({
  message: messageOf(record, topic, () => `${topic}/${partition}/${offset}`),
  position: `${partition}:${offset}:${key}`
})

const placeOf = (position: string): (Place & { readonly key: string }) | undefined => {
  const match = /^(\d+):(\d+):([0-9a-f@]+)$/.exec(position)
  return match === null ? undefined : { partition: Number(match[1]), offset: Number(match[2]), key: match[3] ?? "" }
}

const isAfter = (a: Place, b: Place): boolean =>
  a.partition > b.partition || (a.partition === b.partition && a.offset > b.offset)
