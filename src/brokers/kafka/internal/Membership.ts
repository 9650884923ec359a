/**
 * Membership of a consumer group, by the protocol of KIP-848: the server decides who reads what, and a member keeps what is
 * taken from it until it says that it has given it up.
 *
 * ```text
 *   join (epoch 0) ──▶ heartbeat … heartbeat ──▶ leave
 *      ▲                  │ the server does not know us any more, or has not heard of us for too long
 *      └──────────────────┘ all that we had is lost
 * ```
 */
import type { ConnectionPool } from "@platformatic/kafka"
import { consumerGroupHeartbeatV0, describeConfigsV4 } from "@platformatic/kafka"
import type { Cluster } from "./Cluster.ts"
import { codesOf, hasCode } from "./errors.ts"

/** A partition that the server wants us to read. */
export interface Assigned {
  readonly topicId: string
  readonly index: number
}

const requestTimeout = 5_000
/** What servers have where nobody has said otherwise. */
const usualSession = 45_000
const groupResource = 32
const unchanged = -1

export class Membership {
  readonly pool: ConnectionPool
  readonly memberId: string = crypto.randomUUID()
  /** 0 before the server has taken us in. */
  epoch = 0
  /** Why we are not a member now, or cannot say that we are. */
  problem: unknown = undefined
  private readonly cluster: Cluster
  private readonly groupId: string
  private readonly topics: ReadonlyArray<string>
  private readonly owned: () => ReadonlyArray<Assigned>
  private readonly onAssigned: (partitions: ReadonlyArray<Assigned>) => void
  private readonly onFenced: () => void
  private coordinator: Promise<number> | undefined
  private looking = false
  private session = usualSession
  private lastHeard = 0
  /** The server may have taken us in. */
  private joining = false
  private beating: Promise<void> = Promise.resolve()
  private expiry: NodeJS.Timeout | undefined
  private ownedChanged = false
  private closed = false
  private running: Promise<void> = Promise.resolve()
  private resume: (() => void) | undefined
  private woken = false

  constructor(
    cluster: Cluster,
    groupId: string,
    topics: ReadonlyArray<string>,
    handlers: {
      readonly owned: () => ReadonlyArray<Assigned>
      readonly onAssigned: (partitions: ReadonlyArray<Assigned>) => void
      /** Nothing is ours any more. */
      readonly onFenced: () => void
    }
  ) {
    this.cluster = cluster
    this.groupId = groupId
    this.topics = topics
    this.owned = handlers.owned
    this.onAssigned = handlers.onAssigned
    this.onFenced = handlers.onFenced
    this.pool = cluster.pool(requestTimeout)
  }

  /** Joins; a failure is that of the first try. Then it stays a member until `leave`. */
  async join(): Promise<void> {
    this.session = await this.sessionTimeout()
    if (this.closed) return
    this.beating = this.beat()
    try {
      await this.beating
    } catch (error) {
      this.failed(error, 0)
      throw error
    }
    this.running = this.run()
  }

  /** What we own has changed: the server should hear of it now. */
  tell(): void {
    this.ownedChanged = true
    this.wake()
  }

  wake(): void {
    this.woken = true
    this.resume?.()
  }

  /** The server that coordinates the group. */
  where(): Promise<number> {
    this.coordinator ??= this.cluster.coordinatorOf(this.groupId).catch((error: unknown) => {
      this.coordinator = undefined
      throw error
    })
    return this.coordinator
  }

  /** An operation of the group in this epoch has failed: it may have to be asked elsewhere, or we are no member any more. */
  failed(error: unknown, epoch: number): void {
    if (hasCode(error, "UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH")) {
      // What was asked before an answer that came meanwhile says nothing of now.
      if (epoch === this.epoch) this.fence()
    } else if (codesOf(error).length === 0 || hasCode(error, ...elsewhere)) this.lookElsewhere()
  }

  /** Meanwhile the one that is known is asked again: it may have been the connection. */
  private lookElsewhere(): void {
    if (this.looking || this.closed) return
    this.looking = true
    this.cluster
      .coordinatorOf(this.groupId)
      .then(
        (node) => {
          this.coordinator = Promise.resolve(node)
        },
        // It is tried again when the next operation fails.
        () => undefined
      )
      .finally(() => {
        this.looking = false
      })
  }

  private async sessionTimeout(): Promise<number> {
    try {
      const resources = [{ resourceType: groupResource as 2, resourceName: this.groupId, configurationKeys: null }]
      const { results } = await this.cluster.any(describeConfigsV4.api, resources, false, false)
      const value = results[0]?.configs.find(({ name }) => name === "consumer.session.timeout.ms")?.value
      return Number(value) > 0 ? Number(value) : usualSession
    } catch {
      // It may not be ours to ask; and if the server is not there, the join says so.
      return usualSession
    }
  }

  private async run(): Promise<void> {
    while (!this.closed) {
      await this.pause(this.problem === undefined ? this.cluster.settings.heartbeat : 200)
      if (this.closed) return
      const { epoch } = this
      try {
        await this.beat()
      } catch (error) {
        this.problem = error
        this.failed(error, epoch)
      }
    }
  }

  private async pause(millis: number): Promise<void> {
    if (!this.woken) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, millis)
        this.resume = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.resume = undefined
    }
    this.woken = false
  }

  private async beat(): Promise<void> {
    const { epoch } = this
    const joins = epoch === 0
    this.joining ||= joins
    const tells = joins || this.ownedChanged
    this.ownedChanged = false
    const sentAt = performance.now()
    let answer: consumerGroupHeartbeatV0.ConsumerGroupHeartbeatResponse
    try {
      answer = await this.send(epoch, joins, tells ? (joins ? [] : this.owned()) : undefined)
    } catch (error) {
      // The server may not have heard it.
      if (tells) this.ownedChanged = true
      throw error
    }
    // It is about a membership that we have given up meanwhile, with all that it had.
    if (this.closed || this.epoch !== epoch) return
    this.problem = undefined
    this.lastHeard = sentAt
    this.epoch = answer.memberEpoch
    this.watch()
    const { assignment } = answer
    if (assignment !== null) {
      this.onAssigned(
        assignment.topicPartitions.flatMap(({ partitions, topicId }) => partitions.map((index) => ({ topicId, index })))
      )
    }
  }

  private async send(
    epoch: number,
    whole: boolean,
    owned: ReadonlyArray<Assigned> | undefined
  ): Promise<consumerGroupHeartbeatV0.ConsumerGroupHeartbeatResponse> {
    const byTopic = owned && Map.groupBy(owned, ({ topicId }) => topicId)
    const topicPartitions =
      byTopic === undefined
        ? null
        : [...byTopic].map(([topicId, list]) => ({ topicId, partitions: list.map(({ index }) => index) }))
    return this.cluster.at(
      this.pool,
      await this.where(),
      consumerGroupHeartbeatV0.api,
      this.groupId,
      this.memberId,
      epoch,
      null,
      null,
      whole ? this.cluster.settings.revokeTimeout + 10_000 : unchanged,
      whole ? [...this.topics] : null,
      null,
      // Gives the partitions of the same number of both topics to the same member, and so all of a key.
      whole ? "range" : null,
      topicPartitions
    )
  }

  /** When the server has not heard of us for so long, it gives to others what was ours: so we must know as soon. */
  private watch(): void {
    clearTimeout(this.expiry)
    this.expiry = setTimeout(() => this.fence(), this.lastHeard + this.session - performance.now())
  }

  /** A process that stood still may run other things before its timers. */
  giveUpIfExpired(): void {
    if (this.epoch > 0 && performance.now() >= this.lastHeard + this.session) this.fence()
  }

  private fence(): void {
    if (this.epoch === 0 || this.closed) return
    clearTimeout(this.expiry)
    this.epoch = 0
    this.onFenced()
    this.wake()
  }

  /** Ends it. Where something of ours may still run, the server is not told, so that it waits until the session has expired. */
  async leave(tell: boolean): Promise<void> {
    this.closed = true
    clearTimeout(this.expiry)
    this.wake()
    await this.beating.catch(() => undefined)
    await this.running
    // A join whose answer nobody has waited for would keep partitions until its session ends.
    if (tell && this.joining) await this.send(-1, false, undefined).catch(() => undefined)
    await this.cluster.closePool(this.pool)
  }
}

const elsewhere = [
  "NOT_COORDINATOR",
  "COORDINATOR_NOT_AVAILABLE",
  "COORDINATOR_LOAD_IN_PROGRESS",
  "LEADER_NOT_AVAILABLE"
]
