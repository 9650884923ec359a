/**
 * Exchanges and queues: declared where they are missing, checked where they are there.
 *
 * ```text
 *   exchange TOPIC (fanout) ──▶ queue TOPIC:GROUP ──▶ consumers
 *        ▲                          ▲                    │ retry, and when its time has come back
 *   queue TOPIC::delay:MS           └── queue TOPIC:GROUP:retry:MS
 *                                       queue TOPIC:GROUP:dead      dead letters, which nobody consumes
 * ```
 */
import type { Channel, Options } from "amqplib"
import type { Group } from "../../../messaging/Driver.ts"
import { longestDelay, rangeOf, ranges } from "./Delays.ts"
import { deadQueueOf, delayQueueOf, queueOf, retryQueueOf } from "./Names.ts"
import type { Settings } from "./Settings.ts"

/** A queue with how it is declared. */
export interface Queue {
  readonly name: string
  readonly options: Options.AssertQueue
  /** The exchange that it gets its messages from. */
  readonly source?: string
}

/**
 * No limit: attempts are counted by consumers, and a release is none. A number, since servers before version 4 know none of
 * the words for it, and a queue must be declared the same way by all.
 */
const noDeliveryLimit = 1_000_000_000
/** A classic queue of retries goes away so long after its last use; it is declared again before that. */
const unusedFor = 24 * 3_600_000
/** Declared again after this time, so that none goes away with messages in it. */
const declaredFor = 3_600_000

export class Topology {
  private readonly settings: Settings
  /** The groups of topics that this process has declared, to declare them again where the server has lost them. */
  private readonly known = new Map<string, Set<string>>()
  /** When queues were last declared, by the clock of the process. */
  private readonly declared = new Map<string, number>()

  constructor(settings: Settings) {
    this.settings = settings
  }

  /** Whether its queue has one consumer at a time, so that it can be consumed in order by key. */
  isOrdered(group: string): boolean {
    const { ordered } = this.settings
    return ordered === true || ordered?.has(group) === true
  }

  /** The queue of a group. */
  queue(group: Group): Queue {
    const { priorities } = this.settings
    const options = priorities === undefined ? {} : { maxPriority: priorities }
    const one = this.isOrdered(group.group) ? { "x-single-active-consumer": true } : {}
    return { ...this.durable(queueOf(group), options, one), source: group.topic }
  }

  deadQueue(group: Group): Queue {
    return this.durable(deadQueueOf(group), {})
  }

  /** Where a message waits that comes back to this group alone. */
  retryQueue(group: Group, delay: number): Queue {
    const range = rangeOf(delay)
    // A quorum queue would go away with what is in it, however often it is declared again and sent to: it counts as used only
    // by consumers (rabbitmq-server issue 5894).
    const expires = this.settings.queueType === "quorum" ? {} : { expires: Math.min(range, longestDelay) + unusedFor }
    return this.waiting(retryQueueOf(group, range), range, "", queueOf(group), expires)
  }

  /**
   * Where a message waits that goes to all groups of a topic. It does not go away by itself, since its messages stay in it
   * until the topic has a group.
   */
  delayQueue(topic: string, delay: number): Queue {
    const range = rangeOf(delay)
    return this.waiting(delayQueueOf(topic, range), range, topic, "", {})
  }

  /** All queues that retries of a group may wait in. */
  retryQueues(group: Group): ReadonlyArray<string> {
    return ranges.map((range) => retryQueueOf(group, range))
  }

  private durable(name: string, options: Options.AssertQueue, more: Record<string, unknown> = {}): Queue {
    const { queueType } = this.settings
    const limit = queueType === "quorum" ? { "x-delivery-limit": noDeliveryLimit } : {}
    return { name, options: { durable: true, ...options, arguments: { "x-queue-type": queueType, ...limit, ...more } } }
  }

  private waiting(name: string, range: number, exchange: string, key: string, options: Options.AssertQueue): Queue {
    const { queueType } = this.settings
    // A message leaves a quorum queue only when the next one has confirmed it. Classic queues cannot do that.
    const atLeastOnce =
      queueType === "quorum" ? { "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish" } : {}
    return {
      name,
      options: {
        durable: true,
        messageTtl: range,
        deadLetterExchange: exchange,
        deadLetterRoutingKey: key,
        ...options,
        arguments: { "x-queue-type": queueType, ...atLeastOnce }
      }
    }
  }

  /** Declares a topic and these groups of it, for good. */
  async declare(channel: Channel, topic: string, groups: ReadonlyArray<string>): Promise<void> {
    const known = this.known.get(topic) ?? new Set()
    this.known.set(topic, known)
    await channel.assertExchange(topic, "fanout", { durable: true })
    for (const group of groups) {
      await this.assert(channel, this.queue({ topic, group }))
      await this.assert(channel, this.deadQueue({ topic, group }))
      known.add(group)
    }
  }

  knowsGroups(topic: string): boolean {
    return (this.known.get(topic)?.size ?? 0) > 0
  }

  /** Declares again what this process has declared of a topic. */
  restore(channel: Channel, topic: string): Promise<void> {
    return this.declare(channel, topic, [...(this.known.get(topic) ?? [])])
  }

  async assert(channel: Channel, { name, options, source }: Queue): Promise<void> {
    await channel.assertQueue(name, options)
    if (source !== undefined) await channel.bindQueue(name, source, "")
    this.declared.set(name, Date.now())
  }

  /** Whether a queue need not be declared before it is used. */
  isDeclared({ name }: Queue): boolean {
    return Date.now() - (this.declared.get(name) ?? Number.NEGATIVE_INFINITY) < declaredFor
  }

  /** It is not there any more, whatever was known of it. */
  forgetQueue(name: string): void {
    this.declared.delete(name)
  }

  /** A new connection may lead to a server that knows less than the old one. */
  forgetQueues(): void {
    this.declared.clear()
  }

  /** Deletes a group with its backlog and its retries. */
  async remove(channel: Channel, group: Group): Promise<void> {
    this.known.get(group.topic)?.delete(group.group)
    for (const name of [...this.retryQueues(group), queueOf(group)]) {
      this.declared.delete(name)
      await channel.deleteQueue(name)
    }
  }
}
