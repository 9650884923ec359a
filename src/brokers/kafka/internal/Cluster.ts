/**
 * The servers: connections to them, who leads what, and requests that find their way.
 *
 * It speaks the protocol through the client's own functions for single requests, since its consumer has no way to wait while
 * partitions are taken away, nor to stop reading one of them. docs/decisions/0008 has the reasons.
 */
import type { Broker, Connection } from "@platformatic/kafka"
import { ConnectionPool, findCoordinatorV6, metadataV12 } from "@platformatic/kafka"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { About } from "./errors.ts"
import { codesOf, errorOf, hasCode, Refusal, refusalOf, unavailable } from "./errors.ts"
import type { Settings } from "./Settings.ts"

/** A request of the client: one function for each version of each request of the protocol. */
interface Request<Args extends ReadonlyArray<unknown>, A> {
  readonly async: (connection: Connection, ...args: Args) => Promise<A>
}

export interface TopicInfo {
  readonly id: string
  readonly name: string
  /** The servers that lead its partitions, by partition; -1 where none does for now. */
  readonly leaders: ReadonlyArray<number>
  /** When it was asked for. */
  readonly at: number
}

/** Topics are asked for again after this time, in case that one was deleted, or has more partitions. */
const known = 60_000

const stale = [
  "NOT_LEADER_OR_FOLLOWER",
  "LEADER_NOT_AVAILABLE",
  "FENCED_LEADER_EPOCH",
  "UNKNOWN_LEADER_EPOCH",
  "UNKNOWN_TOPIC_ID",
  "UNKNOWN_TOPIC_OR_PARTITION",
  "KAFKA_STORAGE_ERROR"
]

/** Whether an error says that what is known of topics is out of date. */
export const isStale = (error: unknown): boolean => codesOf(error).length === 0 || hasCode(error, ...stale)

export class Cluster {
  readonly settings: Settings
  readonly control: ConnectionPool
  /** For questions about the cluster, on which all others wait: a connection that is gone without a word is soon found out. */
  private readonly questions: ConnectionPool
  private readonly brokers = new Map<number, Broker>()
  private readonly topics = new Map<string, TopicInfo>()
  private readonly namesById = new Map<string, string>()
  private readonly pools = new Set<ConnectionPool>()

  constructor(settings: Settings) {
    this.settings = settings
    this.control = this.pool(10_000)
    this.questions = this.pool(3_000)
  }

  /** Connections of their own: a server answers one request of a connection after the other. */
  pool(requestTimeout: number): ConnectionPool {
    const pool = new ConnectionPool(this.settings.clientId, {
      ...this.settings.connection,
      requestTimeout,
      maxInflights: 16
    })
    this.pools.add(pool)
    return pool
  }

  async closePool(pool: ConnectionPool): Promise<void> {
    this.pools.delete(pool)
    await inTime(pool.close()).catch(() => undefined)
  }

  async close(): Promise<void> {
    await Promise.all([...this.pools].map((pool) => this.closePool(pool)))
  }

  /** Sends to one server. */
  async at<Args extends ReadonlyArray<unknown>, A>(
    pool: ConnectionPool,
    node: number,
    request: Request<Args, A>,
    ...args: Args
  ): Promise<A> {
    const broker = this.brokers.get(node)
    if (broker === undefined) throw new Refusal("LEADER_NOT_AVAILABLE", `server ${node} is not there now`)
    return inTime(pool.get(broker).then((connection) => request.async(connection, ...args)))
  }

  /** Sends to whichever server answers. */
  any<Args extends ReadonlyArray<unknown>, A>(request: Request<Args, A>, ...args: Args): Promise<A> {
    return this.first(this.control, request, args)
  }

  private first<Args extends ReadonlyArray<unknown>, A>(
    pool: ConnectionPool,
    request: Request<Args, A>,
    args: Args
  ): Promise<A> {
    const servers = [...this.brokers.values(), ...this.settings.brokers]
    return inTime(pool.getFirstAvailable(servers).then((connection) => request.async(connection, ...args)))
  }

  get nodes(): ReadonlyArray<number> {
    return [...this.brokers.keys()]
  }

  /** Asks who is there, for these topics or, with `undefined`, for all. Missing ones are forgotten. */
  async refresh(names: ReadonlyArray<string> | undefined): Promise<ReadonlyArray<string>> {
    const asked = names === undefined ? null : [...names]
    const answer = await orPartly(this.first(this.questions, metadataV12.api, [asked, false, false]))
    if (answer.brokers.length > 0) {
      this.brokers.clear()
      for (const { host, nodeId, port } of answer.brokers) this.brokers.set(nodeId, this.settings.address(host, port))
    }
    const found: Array<string> = []
    for (const { errorCode, name, partitions, topicId } of answer.topics) {
      if (name == null) continue
      // Without a leader for now it is there all the same.
      if (errorCode !== 0 && errorCode !== leaderNotAvailable) {
        this.topics.delete(name)
        if (errorCode !== unknownTopic)
          throw refusalOf(errorCode, `topic "${name}" cannot be used (error ${errorCode})`)
        continue
      }
      found.push(name)
      const leaders: Array<number> = new Array(partitions.length).fill(-1)
      for (const { leaderId, partitionIndex } of partitions) leaders[partitionIndex] = leaderId
      this.topics.set(name, { id: topicId, name, leaders, at: Date.now() })
      this.namesById.set(topicId, name)
    }
    return found
  }

  /** What is known of a topic without asking, and recent. */
  topic(name: string): TopicInfo | undefined {
    const info = this.topics.get(name)
    return info !== undefined && Date.now() - info.at < known ? info : undefined
  }

  /** The topic; `undefined` where there is none. */
  async findTopic(name: string): Promise<TopicInfo | undefined> {
    const info = this.topic(name)
    if (info !== undefined) return info
    await this.refresh([name])
    return this.topics.get(name)
  }

  forget(name: string): void {
    this.topics.delete(name)
  }

  nameOf(topicId: string): string | undefined {
    return this.namesById.get(topicId)
  }

  /** The server that leads a partition, as far as is known. */
  leaderOf(topic: string, partition: number): number {
    return this.topics.get(topic)?.leaders[partition] ?? -1
  }

  /** The server that coordinates a group. */
  async coordinatorOf(groupId: string): Promise<number> {
    const { coordinators } = await this.first(this.questions, findCoordinatorV6.api, [0, [groupId]])
    const found = coordinators[0]
    if (found === undefined) throw new Refusal("COORDINATOR_NOT_AVAILABLE", "no server coordinates the group")
    this.brokers.set(found.nodeId, this.settings.address(found.host, found.port))
    return found.nodeId
  }

  /** Runs it again while the servers are out of reach, as long as operations are patient. */
  patiently<A>(about: About, run: () => Promise<A>): Effect.Effect<A, BrokerError> {
    return Effect.suspend(() => {
      let last = "no server answers"
      return Effect.tryPromise({ try: run, catch: (error) => errorOf(about, error) }).pipe(
        Effect.tapError(({ reason }) => Effect.sync(() => (last = reason.detail))),
        Effect.retry({ while: ({ reason }) => reason._tag === "Unavailable", schedule: Schedule.spaced(100) }),
        Effect.timeoutOrElse({
          duration: this.settings.patience,
          orElse: () => Effect.fail(unavailable(about, `not done within ${this.settings.patience} ms: ${last}`))
        })
      )
    })
  }
}

/** Beyond all times that the client keeps by itself for a request and its connection. */
const longest = 20_000

/** So that an answer which the client never gives, whatever the reason, does not stop what waits for it for ever. */
const inTime = <A>(answer: Promise<A>): Promise<A> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${longest} ms`)), longest)
  })
  return Promise.race([answer, late]).finally(() => clearTimeout(timer))
}

const unknownTopic = 3
const leaderNotAvailable = 5

/** The client throws an answer away where a part of it is an error; but the rest of it says something too. */
export const orPartly = <A>(answer: Promise<A>): Promise<A> =>
  answer.catch((error: unknown) => {
    // It is the answer to this very request, as the client has read it.
    if (error instanceof Error && "response" in error && error.response !== undefined) return error.response as A
    throw error
  })
