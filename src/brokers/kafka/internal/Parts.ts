/** What the operations of the driver share. */
import { Buffer } from "node:buffer"
import * as Effect from "effect/Effect"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Destination, OutgoingMessage, Published } from "../../../messaging/Driver.ts"
import type { TopicInfo } from "./Cluster.ts"
import { Cluster } from "./Cluster.ts"
import type { Consumption } from "./Consumption.ts"
import type { About } from "./errors.ts"
import { rejected } from "./errors.ts"
import { Letters } from "./Letters.ts"
import { deadTopicOf, invalidName, retryTopicOf } from "./Names.ts"
import type { Entry } from "./Partition.ts"
import type { Outgoing } from "./Producer.ts"
import { Producer } from "./Producer.ts"
import { partitionOf } from "./partitioner.ts"
import type { Settings } from "./Settings.ts"
import { Topology } from "./Topology.ts"
import type { Extra, Headers } from "./Wire.ts"
import { headersOf, originalsOf, originOf } from "./Wire.ts"

export class Parts {
  readonly settings: Settings
  readonly cluster: Cluster
  readonly topology: Topology
  readonly producer: Producer
  readonly letters: Letters
  readonly consumptions = new Set<Consumption>()
  private turn = 0

  constructor(settings: Settings) {
    this.settings = settings
    this.cluster = new Cluster(settings)
    this.topology = new Topology(this.cluster)
    this.producer = new Producer(this.cluster)
    this.letters = new Letters(this.cluster, this.topology)
  }

  /** What is wrong with a message before it is sent. */
  problemOf({ body, delay, destination, envelope, priority }: OutgoingMessage): BrokerError | undefined {
    const about: About = { operation: "publish", topic: destination.topic, ids: [envelope.id] }
    const wrongName = invalidName(
      "publish",
      destination.topic,
      destination._tag === "Topic" ? undefined : destination.group
    )
    if (wrongName !== undefined) return wrongName
    const { maxMessageBytes } = this.settings
    if (body.byteLength > maxMessageBytes) {
      const detail = `the payload has ${body.byteLength} bytes, and ${maxMessageBytes} are allowed (maxMessageBytes)`
      return rejected(about, "TooLarge", `${detail}; put it elsewhere and send where it is`)
    }
    if (delay !== undefined && delay > 0) {
      return rejected(about, "Unsupported", "Kafka delays no messages; leave out delay, or use a broker that does")
    }
    if (priority !== undefined && priority !== 0) {
      return rejected(
        about,
        "Unsupported",
        "Kafka has no priorities; leave out priority, or use a broker that has them"
      )
    }
    return undefined
  }

  /** The topic that a message goes to, where it is known. */
  knownTopic(destination: Destination): TopicInfo | undefined {
    return this.cluster.topic(topicOf(destination))
  }

  /** The topic that a message goes to, made where that is allowed. */
  findTopic(destination: Destination): Effect.Effect<TopicInfo, BrokerError> {
    const about: About = { operation: "publish", topic: destination.topic }
    switch (destination._tag) {
      case "Topic":
        return this.cluster.patiently(about, () => this.topology.need(destination.topic))
      case "DeadLetters":
        return this.cluster.patiently(about, () => this.topology.needDeadTopic(destination))
      case "Group":
        // A group that nobody has asked for would begin behind it.
        return Effect.flatMap(
          this.cluster.patiently(about, () => this.cluster.findTopic(retryTopicOf(destination))),
          (topic) =>
            topic === undefined
              ? Effect.fail(
                  rejected(about, "NoGroup", `there is no group "${destination.group}"; subscribe to it first`)
                )
              : Effect.succeed(topic)
        )
    }
  }

  /** One more for messages without a key, so that those of one call go together, and the next call's elsewhere. */
  nextTurn(): number {
    this.turn = (this.turn + 1) % 0x7fffffff
    return this.turn
  }

  record(
    about: About,
    { leaders, name }: TopicInfo,
    message: OutgoingMessage,
    turn: number,
    done: (answer: Published) => void
  ): Outgoing {
    const { body, destination, envelope } = message
    if (destination._tag === "DeadLetters") {
      const key = Buffer.from(crypto.randomUUID())
      const entry = this.entryOf(destination, body)
      const extra = entry === undefined ? {} : extraOf(entry)
      return this.make(about, name, partitionOf(key, leaders.length), key, body, headersOf(envelope, extra), done)
    }
    const key = envelope.key === undefined ? undefined : Buffer.from(envelope.key)
    const partition = key === undefined ? turn % leaders.length : partitionOf(key, leaders.length)
    return this.make(about, name, partition, key, body, headersOf(envelope), done)
  }

  /** A copy of a delivery for the topic of its group's retries, in the partition of the same number. */
  copy(
    entry: Entry,
    { leaders, name }: TopicInfo,
    message: Omit<OutgoingMessage, "destination">,
    due: number,
    done: (answer: Published) => void
  ): Outgoing {
    const { body, envelope } = message
    const about: About = { operation: "retry", topic: entry.partition.origin, ids: [envelope.id] }
    const key = envelope.key === undefined ? undefined : Buffer.from(envelope.key)
    const headers = headersOf(envelope, { ...extraOf(entry), due })
    return this.make(about, name, entry.partition.index % leaders.length, key, body, headers, done)
  }

  private make(
    about: About,
    topic: string,
    partition: number,
    key: Buffer | undefined,
    body: Uint8Array,
    headers: Headers,
    done: (answer: Published) => void
  ): Outgoing {
    const value = Buffer.from(body.buffer, body.byteOffset, body.byteLength)
    let bytes = value.length + (key?.length ?? 0) + 50
    for (const [name, value] of headers) bytes += name.length + value.length + 4
    const deadline = Date.now() + this.settings.patience
    return { about, topic, partition, key, value, headers, bytes, deadline, cancelled: false, done }
  }

  /** Removes a letter by an empty record of its key. */
  readonly removeLetter = (topic: TopicInfo, partition: number, key: Buffer): Promise<void> =>
    new Promise((resolve, reject) => {
      const deadline = Date.now() + this.settings.patience
      const about: About = { operation: "remove dead letters", topic: topic.name }
      const done = (answer: Published) => (answer._tag === "Failed" ? reject(answer.error) : resolve())
      const headers: Headers = new Map()
      const bytes = key.length + 50
      this.producer.send({
        about,
        topic: topic.name,
        partition,
        key,
        value: undefined,
        headers,
        bytes,
        deadline,
        cancelled: false,
        done
      })
    })

  /** The delivery whose payload this is. */
  private entryOf(group: { readonly topic: string; readonly group: string }, body: Uint8Array): Entry | undefined {
    for (const { options, partitions } of this.consumptions) {
      if (options.topic !== group.topic || options.group !== group.group) continue
      for (const partition of partitions.values()) {
        const entry = partition.find(body)
        if (entry !== undefined) return entry
      }
    }
    return undefined
  }

  readonly close: Effect.Effect<void> = Effect.promise(async () => {
    await this.producer.close()
    await this.cluster.close()
  })
}

const topicOf = (destination: Destination): string => {
  switch (destination._tag) {
    case "Topic":
      return destination.topic
    case "Group":
      return retryTopicOf(destination)
    case "DeadLetters":
      return deadTopicOf(destination)
  }
}

/** What a copy keeps of where the message came from. */
const extraOf = ({ offset, partition, record }: Entry): Extra => {
  if (record === undefined) return {}
  return {
    origin: originOf(record) ?? `${partition.topic}/${partition.index}/${offset}`,
    originals: originalsOf(record)
  }
}
