/**
 * One subscription: what is handed over, and what becomes of it. Which partitions it reads is in Assignment.ts, what it has
 * written of its progress in Commits.ts, and what it knows of one partition in Partition.ts.
 */
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
import { Assignment } from "./Assignment.ts"
import type { Cluster } from "./Cluster.ts"
import { Commits } from "./Commits.ts"
import { errorOf, rejected } from "./errors.ts"
import { Fetcher } from "./Fetcher.ts"
import { Membership } from "./Membership.ts"
import { groupIdOf, retryTopicOf } from "./Names.ts"
import type { Partition } from "./Partition.ts"
import { KafkaDelivery } from "./Partition.ts"
import { sleep } from "./sleep.ts"
import type { Topology } from "./Topology.ts"

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
  private readonly cluster: Cluster
  private readonly membership: Membership
  private readonly assignment: Assignment
  private readonly commits: Commits
  private readonly fetcher: Fetcher
  private readonly lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>
  private readonly sendCopy: SendCopy
  private readonly waiters = new Set<() => void>()
  /** For the next `take`. */
  private picked: Array<KafkaDelivery> = []
  private credit: number
  private turn = 0
  private ended: BrokerError | undefined
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
    const { cluster, log, sendCopy, topology } = parts
    this.options = options
    this.credit = options.credit
    this.cluster = cluster
    this.sendCopy = sendCopy
    this.lost = lost
    const groupId = groupIdOf(options)
    this.membership = new Membership(cluster, groupId, [options.topic, retryTopicOf(options)], {
      owned: () => this.assignment.owned,
      onAssigned: (partitions) => this.assignment.assign(partitions),
      onFenced: () => this.assignment.fence()
    })
    this.commits = new Commits(cluster, groupId, this.membership, () => [...this.partitions.values()])
    this.fetcher = new Fetcher(cluster, {
      wanted: () => [...this.partitions.values()].filter((partition) => this.hasRoom(partition)),
      hasRoom: (partition) => this.hasRoom(partition),
      onRead: () => this.wake(),
      onGap: (partition) => this.assignment.goOn(partition).catch(() => undefined)
    })
    this.assignment = new Assignment(options, {
      cluster,
      topology,
      membership: this.membership,
      commits: this.commits,
      log,
      onLost: (deliveries) => {
        this.picked = this.picked.filter((one) => !deliveries.includes(one))
        Queue.offerUnsafe(this.lost, deliveries)
      },
      onChange: () => {
        this.wake()
        this.fetcher.poke()
      }
    })
  }

  /** The partitions that are ours. */
  get partitions(): ReadonlyMap<string, Partition> {
    return this.assignment.partitions
  }

  /** Joins the group; when it is done, what was assigned can be read. */
  async begin(): Promise<void> {
    await this.membership.join()
    // At most as long as a server takes to answer; what is assigned later is read later.
    for (let i = 0; i < 500 && this.assignment.isLoading; i++) await sleep(5)
  }

  get problem(): BrokerError | undefined {
    const problem = this.membership.problem ?? this.fetcher.problem
    return problem === undefined ? undefined : errorOf({ operation: "take", topic: this.options.topic }, problem)
  }

  // Handing over

  private get held(): number {
    let held = 0
    for (const partition of this.partitions.values()) held += partition.held
    return held
  }

  /** Whether more of it is to be read. */
  private hasRoom(partition: Partition): boolean {
    if (this.closed || this.credit === 0 || partition.revoking) return false
    const { ahead, aheadBytes, bytes, size } = partition
    const most = this.cluster.settings.maxUncommitted
    // Where it is at its bound, not for one message at a time: each would cost a whole answer.
    const enough = Math.ceil(most / 10)
    return (
      ahead < Math.max(500, this.credit) && aheadBytes < mostAheadBytes && bytes < mostBytes && most - size >= enough
    )
  }

  private pick(max: number, maxBytes: number): Array<KafkaDelivery> {
    this.membership.giveUpIfExpired()
    const room = Math.min(max, this.credit - this.held)
    const deliveries: Array<KafkaDelivery> = []
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
      if (this.picked.length === 0) this.picked = this.pick(max, maxBytes)
      // It hands over in one last step: interrupted before, it leaves them to the next.
      return this.picked.length > 0
        ? Effect.sync(() => this.picked.splice(0, max))
        : Effect.andThen(this.changed, attempt)
    })
    return attempt
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
      this.membership.giveUpIfExpired()
      settlements.forEach((settlement, i) => {
        const answer = this.settleOne(settlement)
        if (typeof answer === "string") answers[i] = answer
        else {
          copies.push(answer)
          places.push(i)
        }
      })
      this.commits.soon()
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
        this.commits.soon()
        this.wake()
        resolve("Unconfirmed")
      })
    })
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
    this.commits.close()
    this.assignment.close()
    const partitions = [...this.partitions.values()]
    const abandoned = partitions.some(({ deliveries }) => deliveries.some(({ abandoned }) => abandoned))
    await this.commits.flush(() => partitions, lastCommit)
    for (const partition of partitions) partition.closed = true
    this.wake()
    await Promise.all([this.membership.leave(!abandoned), this.fetcher.close()])
    Queue.endUnsafe(this.lost)
  }
}
