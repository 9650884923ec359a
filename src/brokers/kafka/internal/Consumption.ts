/**
 * One subscription: the partitions that it owns, what is handed over, settled and committed.
 */
import { offsetCommitV9, offsetFetchV9 } from "@platformatic/kafka"
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type {
  Delivery,
  OutgoingMessage,
  Published,
  Settled,
  Settlement,
  SubscribeOptions
} from "../../../messaging/Driver.ts"
import type { Cluster } from "./Cluster.ts"
import { errorOf, hasCode, rejected } from "./errors.ts"
import { Fetcher } from "./Fetcher.ts"
import type { Assigned } from "./Membership.ts"
import { Membership } from "./Membership.ts"
import { groupIdOf, retryTopicOf } from "./Names.ts"
import { KafkaDelivery, Partition } from "./Partition.ts"
import { read as readProgress } from "./Progress.ts"
import type { Topology } from "./Topology.ts"
import { committedOf, earliest, latest } from "./Topology.ts"

/** Sends a copy to the topic of the group's retries. */
export type SendCopy = (
  delivery: KafkaDelivery,
  message: Omit<OutgoingMessage, "destination">,
  due: number,
  done: (answer: Published) => void
) => void

/** How long closing waits for the last progress to be written. */
const lastCommit = 5_000
/** Bytes of a partition that are read ahead, */
const mostAheadBytes = 1024 * 1024
/** and those that wait for their time or for an earlier one of their key beside. */
const mostBytes = 16 * 1024 * 1024

export class Consumption {
  readonly options: SubscribeOptions
  readonly partitions = new Map<string, Partition>()
  private readonly cluster: Cluster
  private readonly topology: Topology
  private readonly groupId: string
  private readonly membership: Membership
  private readonly fetcher: Fetcher
  private readonly lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>
  private readonly log: (message: string) => void
  private readonly sendCopy: SendCopy
  /** What the server wants us to read, those included whose progress is still asked for. */
  private target = new Map<string, Assigned>()
  private readonly loading = new Set<string>()
  private readonly waiters = new Set<() => void>()
  private credit: number
  private turn = 0
  private ended: BrokerError | undefined
  private commitTimer: NodeJS.Timeout | undefined
  private committing: Promise<void> = Promise.resolve()
  private closed = false

  constructor(
    options: SubscribeOptions,
    parts: {
      readonly cluster: Cluster
      readonly topology: Topology
      readonly log: (message: string) => void
      readonly sendCopy: SendCopy
    },
    lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>
  ) {
    this.options = options
    this.credit = options.credit
    this.cluster = parts.cluster
    this.topology = parts.topology
    this.log = parts.log
    this.sendCopy = parts.sendCopy
    this.lost = lost
    this.groupId = groupIdOf(options)
    this.fetcher = new Fetcher(this.cluster, {
      wanted: () => this.withRoom(),
      onRead: () => this.wake(),
      onGap: (partition) => this.goOn(partition).catch(() => undefined)
    })
    this.membership = new Membership(this.cluster, this.groupId, [options.topic, retryTopicOf(options)], {
      owned: () => this.owned(),
      onAssigned: (partitions) => this.assigned(partitions),
      onFenced: () => this.fenced()
    })
  }

  /** Joins the group; when it is done, what was assigned can be read. */
  async begin(): Promise<void> {
    await this.membership.join()
    // At most as long as a server takes to answer; what is assigned later is read later.
    for (let i = 0; i < 500 && this.loading.size > 0; i++) await sleep(5)
  }

  get problem(): BrokerError | undefined {
    const problem = this.membership.problem ?? this.fetcher.problem
    return problem === undefined ? undefined : errorOf({ operation: "take", topic: this.options.topic }, problem)
  }

  // What is ours

  private owned(): ReadonlyArray<Assigned> {
    const owned = [...this.partitions.values()].map(({ index, topicId }) => ({ topicId, index }))
    for (const key of this.loading) {
      const one = this.target.get(key)
      if (one !== undefined) owned.push(one)
    }
    return owned
  }

  private assigned(list: ReadonlyArray<Assigned>): void {
    this.target = new Map(list.map((one) => [keyOf(one), one]))
    const gone: Array<Partition> = []
    for (const [key, partition] of this.partitions) {
      if (this.target.has(key)) {
        // It was to be given up, and is to be kept after all.
        if (partition.revoking) this.wake()
        partition.revoking = false
      } else if (!partition.revoking) gone.push(partition)
    }
    for (const key of this.loading) if (!this.target.has(key)) this.loading.delete(key)
    // Those of the same number have the same keys, and go together.
    for (const together of Map.groupBy(gone, ({ index }) => index).values()) this.giveUp(together)
    const fresh = list.filter((one) => !this.partitions.has(keyOf(one)) && !this.loading.has(keyOf(one)))
    if (fresh.length > 0) this.load(fresh)
    this.membership.tell()
    this.fetcher.poke()
  }

  /** Reads where the group has got to in these. */
  private async load(list: ReadonlyArray<Assigned>): Promise<void> {
    for (const one of list) this.loading.add(keyOf(one))
    const left = () => list.filter((one) => this.loading.has(keyOf(one)) && this.target.get(keyOf(one)) === one)
    while (!this.closed && this.membership.epoch > 0 && left().length > 0) {
      try {
        await this.loadOnce(left())
      } catch (error) {
        this.membership.failed(error)
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
    const request = [{ groupId: this.groupId, memberId, memberEpoch: epoch, topics }]
    const answer = await this.cluster.at(pool, await this.membership.where(), offsetFetchV9.api, request, true)
    const committed = committedOf(answer.groups[0]?.topics ?? [])
    for (const [topic, ofTopic] of byTopic) {
      const found = committed.get(topic)
      // A partition that the topic has got since.
      const info = ofTopic.some(({ index }) => found?.[index] === undefined)
        ? await this.cluster.findTopic(topic)
        : undefined
      const begins = info === undefined ? [] : await this.topology.offsets(info, earliest)
      for (const one of ofTopic) {
        if (!this.loading.delete(keyOf(one)) || this.closed) continue
        const { metadata, offset } = found?.[one.index] ?? { offset: Math.max(0, begins[one.index] ?? 0), metadata: "" }
        const { order, topic: origin } = this.options
        const progress = readProgress(offset, metadata)
        this.partitions.set(keyOf(one), new Partition({ ...one, topic, origin, ordered: order === "key", progress }))
      }
    }
    this.fetcher.poke()
  }

  /** Lets what is handed over end within a time, writes the progress, and gives them up. */
  private async giveUp(partitions: ReadonlyArray<Partition>): Promise<void> {
    for (const partition of partitions) partition.revoking = true
    const going = () => partitions.filter(({ closed, revoking }) => revoking && !closed)
    const until = performance.now() + this.cluster.settings.revokeTimeout
    while (!this.closed && going().some(({ held }) => held > 0) && performance.now() < until) await sleep(10)
    await this.flush(going, 2_000)
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
    if (lost.length > 0) Queue.offerUnsafe(this.lost, lost)
    this.wake()
  }

  private fenced(): void {
    this.target.clear()
    this.loading.clear()
    this.drop([...this.partitions.values()])
  }

  /** What was to be read next is not there: it was deleted before the group has read it, or was never there. */
  private async goOn(partition: Partition): Promise<void> {
    const info = await this.cluster.findTopic(partition.topic)
    if (info === undefined || partition.closed) return
    const [begins, ends] = await Promise.all([
      this.topology.offsets(info, earliest),
      this.topology.offsets(info, latest)
    ])
    const [begin = -1, end = -1] = [begins[partition.index], ends[partition.index]]
    const { index, position, topic } = partition
    if (begin < 0 || end < 0 || partition.closed || (position >= begin && position <= end)) return
    const next = position < begin ? begin : end
    const why =
      position < begin
        ? "the topic's retention has deleted messages that the group has not read"
        : "the log was cut off"
    this.log(
      `Kafka: group "${this.options.group}" was at ${position} of ${topic}/${index} and goes on at ${next}: ${why}`
    )
    partition.skipTo(next)
    this.commitSoon()
  }

  // Handing over

  private get held(): number {
    let held = 0
    for (const partition of this.partitions.values()) held += partition.held
    return held
  }

  private withRoom(): ReadonlyArray<Partition> {
    if (this.closed || this.credit === 0) return []
    const ahead = Math.max(500, this.credit)
    const { maxUncommitted } = this.cluster.settings
    return [...this.partitions.values()].filter(
      (one) =>
        !one.revoking &&
        one.ahead < ahead &&
        one.aheadBytes < mostAheadBytes &&
        one.bytes < mostBytes &&
        one.size < maxUncommitted
    )
  }

  private pick(max: number, maxBytes: number): ReadonlyArray<Delivery> {
    const room = Math.min(max, this.credit - this.held)
    const deliveries: Array<Delivery> = []
    if (room <= 0) return deliveries
    const now = Date.now()
    const partitions = [...this.partitions.values()]
    let bytes = 0
    this.turn++
    for (let i = 0; i < partitions.length && deliveries.length < room; i++) {
      const partition = partitions[(this.turn + i) % partitions.length]
      if (partition === undefined || partition.revoking) continue
      while (deliveries.length < room) {
        const delivery = partition.next(now, ({ record }) => {
          const size = record?.value?.length ?? 0
          if (deliveries.length > 0 && bytes + size > maxBytes) return false
          bytes += size
          return true
        })
        if (delivery === undefined) break
        deliveries.push(delivery)
      }
    }
    if (deliveries.length > 0) this.fetcher.poke()
    return deliveries
  }

  take(max: number, maxBytes: number): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> {
    const attempt: Effect.Effect<ReadonlyArray<Delivery>, BrokerError> = Effect.suspend(() => {
      if (this.ended !== undefined) return Effect.fail(this.ended)
      const deliveries = this.pick(max, maxBytes)
      return deliveries.length > 0
        ? Effect.succeed(deliveries)
        : Effect.andThen(Effect.interruptible(this.changed), attempt)
    })
    return Effect.uninterruptible(attempt)
  }

  /** Waits until there may be something that was not there. */
  private readonly changed: Effect.Effect<void> = Effect.callback((resume) => {
    let next = Number.POSITIVE_INFINITY
    // Without credit it is a settlement that it waits for.
    if (this.held < this.credit) {
      for (const { nextDue, revoking } of this.partitions.values()) if (!revoking) next = Math.min(next, nextDue)
    }
    const done = () => {
      clearTimeout(timer)
      this.waiters.delete(done)
      resume(Effect.void)
    }
    // It may have become due since it was looked at.
    const after = Math.min(Math.max(1, next - Date.now()), 2 ** 30)
    const timer = next === Number.POSITIVE_INFINITY ? undefined : setTimeout(done, after)
    this.waiters.add(done)
    return Effect.sync(() => {
      clearTimeout(timer)
      this.waiters.delete(done)
    })
  })

  private wake(): void {
    for (const resume of [...this.waiters]) resume()
  }

  setCredit(credit: number): void {
    this.credit = credit
    this.wake()
    this.fetcher.poke()
  }

  // Settling

  settle(settlements: ReadonlyArray<Settlement>): Effect.Effect<ReadonlyArray<Settled>, BrokerError> {
    return Effect.suspend(() => {
      const answers: Array<Settled> = []
      const copies: Array<Promise<Settled>> = []
      const places: Array<number> = []
      settlements.forEach((settlement, i) => {
        const answer = this.settleOne(settlement)
        if (typeof answer === "string") answers[i] = answer
        else {
          copies.push(answer)
          places.push(i)
        }
      })
      this.commitSoon()
      this.wake()
      this.fetcher.poke()
      if (copies.length === 0) return Effect.succeed(answers)
      return Effect.map(
        // They fail with what the producer has answered.
        Effect.tryPromise({ try: () => Promise.all(copies), catch: (error) => error as BrokerError }),
        (found) => {
          found.forEach((answer, i) => (answers[places[i] ?? 0] = answer))
          return answers
        }
      )
    })
  }

  private settleOne(settlement: Settlement): Settled | Promise<Settled> {
    const { delivery } = settlement
    if (!(delivery instanceof KafkaDelivery)) return "Lost"
    if (delivery.settled) return "Settled"
    const { entry } = delivery
    const { partition } = entry
    if (partition.closed || this.closed || entry.delivery !== delivery) return "Lost"
    switch (settlement._tag) {
      case "Acknowledge":
        delivery.settled = true
        partition.finish(entry)
        return "Unconfirmed"
      case "Release":
        delivery.settled = true
        partition.release(entry)
        return "Settled"
      case "Abandon":
        delivery.abandoned = true
        return "Settled"
      case "Retry": {
        const { delay, envelope } = settlement
        const due = Date.now() + delay
        if (this.options.order === "key" && envelope.key !== undefined) {
          delivery.settled = true
          partition.retry(entry, envelope, due)
          return "Unconfirmed"
        }
        delivery.copying ??= this.copy(delivery, { envelope, body: delivery.message.body }, due)
        return delivery.copying
      }
    }
  }

  /** The message goes on in the topic of retries; here it is finished when that has it. */
  private copy(delivery: KafkaDelivery, message: Omit<OutgoingMessage, "destination">, due: number): Promise<Settled> {
    return new Promise((resolve, reject) => {
      this.sendCopy(delivery, message, due, (answer) => {
        delivery.copying = undefined
        if (answer._tag === "Failed") return reject(answer.error)
        const { entry } = delivery
        // It has come to another owner meanwhile, beside the copy.
        if (entry.partition.closed || this.closed || entry.delivery !== delivery) return resolve("Lost")
        delivery.settled = true
        entry.partition.finish(entry)
        this.commitSoon()
        this.wake()
        resolve("Unconfirmed")
      })
    })
  }

  // Committing

  private commitSoon(): void {
    if (this.closed) return
    this.commitTimer ??= setTimeout(() => {
      this.commitTimer = undefined
      this.commit([...this.partitions.values()])
    }, this.cluster.settings.commitInterval)
  }

  /** Writes what has changed, after what is being written. */
  private commit(partitions: ReadonlyArray<Partition>): Promise<void> {
    this.committing = this.committing.then(() => this.commitNow(partitions))
    return this.committing
  }

  private async commitNow(partitions: ReadonlyArray<Partition>): Promise<void> {
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
      await this.cluster.at(
        pool,
        await this.membership.where(),
        offsetCommitV9.api,
        this.groupId,
        epoch,
        memberId,
        null,
        topics
      )
    } catch (error) {
      for (const partition of dirty) partition.dirty = true
      // With the next heartbeat there is a new epoch.
      if (hasCode(error, "STALE_MEMBER_EPOCH")) this.membership.wake()
      else this.membership.failed(error)
      this.commitSoon()
    }
  }

  /** Writes it, again and again for a while. */
  private async flush(partitions: () => ReadonlyArray<Partition>, patience: number): Promise<void> {
    const until = performance.now() + patience
    while (performance.now() < until && this.membership.epoch > 0) {
      const dirty = partitions().filter(({ dirty }) => dirty)
      if (dirty.length === 0) return
      await this.commit(dirty)
      if (dirty.some(({ dirty }) => dirty)) await sleep(20)
    }
  }

  // Ending

  /** The group is no more. */
  async endWith(error: BrokerError): Promise<void> {
    this.ended ??= error
    await this.close()
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.ended ??= rejected(
      { operation: "take", topic: this.options.topic },
      "NoGroup",
      "the subscription is closed; subscribe anew"
    )
    this.closed = true
    clearTimeout(this.commitTimer)
    const partitions = [...this.partitions.values()]
    const abandoned = partitions.some(({ deliveries }) => deliveries.some(({ abandoned }) => abandoned))
    await this.flush(() => partitions, lastCommit)
    for (const partition of partitions) partition.closed = true
    this.wake()
    await Promise.all([this.membership.leave(!abandoned), this.fetcher.close()])
    Queue.endUnsafe(this.lost)
  }
}

const keyOf = ({ index, topicId }: Assigned): string => `${topicId}/${index}`

const sleep = (millis: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, millis))
