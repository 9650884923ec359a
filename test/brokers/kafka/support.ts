/** What the tests of Kafka share. */

import * as Client from "@platformatic/kafka"
import { type Message, stringDeserializer } from "@platformatic/kafka"
import { Context, Effect, Layer } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { Kafka } from "millrace/kafka"
import { TcpProxy } from "millrace/testing"

const createTopics = { partitions: 4, replication: 1 }

/** The server, with topics of four partitions that are made when they are needed. */
export const layerAt = (broker: string, options: Partial<Kafka.Options<"default">> = {}) =>
  Kafka.layer({ brokers: [broker], createTopics, ...options })

/** A driver of its own, as of another process. */
export const connect = (broker: string, options: Partial<Kafka.Options<"default">> = {}) =>
  Effect.map(
    Layer.build(Layer.fresh(layerAt(broker, options))),
    (context): Driver.Driver => Context.get(context, Broker.Broker)
  )

/** A proxy in front of the server, and the way to it by the proxy alone. */
export const proxied = (broker: string) =>
  Effect.map(TcpProxy.make({ port: Number(broker.split(":")[1]) }), (proxy) => {
    const address = `${proxy.host}:${proxy.port}`
    return { proxy, options: { brokers: [address], address: () => address } }
  })

/** A name that nobody has used. */
export const fresh = (): string => `test-${crypto.randomUUID().slice(0, 8)}`

/** Waits until the condition holds. */
export const until = (what: string, condition: () => boolean, patience = 20_000) =>
  untilEffect(what, Effect.sync(condition), patience)

export const untilEffect = <E, R>(what: string, condition: Effect.Effect<boolean, E, R>, patience = 20_000) =>
  Effect.gen(function* () {
    const end = performance.now() + patience
    while (!(yield* condition)) {
      if (performance.now() > end) return yield* Effect.die(new Error(`${what}: not within ${patience} ms`))
      yield* Effect.sleep(10)
    }
  })

/** The client itself, for what other programs do. */
export const client = (broker: string) => {
  const base = { clientId: "test", bootstrapBrokers: [broker] }
  return {
    admin: Effect.acquireRelease(
      Effect.sync(() => new Client.Admin(base)),
      (admin) => Effect.promise(() => admin.close())
    ),
    producer: (options: { readonly transactionalId?: string } = {}) =>
      Effect.acquireRelease(
        Effect.sync(
          () => new Client.Producer({ ...base, ...options, idempotent: options.transactionalId !== undefined })
        ),
        (producer) => Effect.promise(() => producer.close())
      ),
    /** Commits an offset of a group without members. */
    commit: (groupId: string, topic: string, partitionIndex: number, offset: bigint, text: string) =>
      Effect.promise(async () => {
        const pool = new Client.ConnectionPool("test")
        const [host = "", port] = broker.split(":")
        const partition = { partitionIndex, committedOffset: offset, committedLeaderEpoch: -1, committedMetadata: text }
        try {
          const connection = await pool.get({ host, port: Number(port) })
          const topics = [{ name: topic, partitions: [partition] }]
          await Client.offsetCommitV9.api.async(connection, groupId, -1, "", null, topics)
        } finally {
          await pool.close()
        }
      }),
    /** A member of a group that never writes how far it has got; the effect that it returns lets it leave. */
    join: (groupId: string, topic: string) =>
      Effect.promise(async () => {
        const pool = new Client.ConnectionPool("test")
        const [host = "", port] = broker.split(":")
        const member = crypto.randomUUID()
        const beat = async (epoch: number) => {
          const connection = await pool.get({ host, port: Number(port) })
          const { api } = Client.consumerGroupHeartbeatV0
          await api.async(connection, groupId, member, epoch, null, null, 10_000, [topic], null, null, [])
        }
        await beat(0)
        return Effect.promise(() => beat(-1).finally(() => pool.close()))
      }),
    /** How many records the topic has. */
    count: (topic: string) =>
      Effect.scoped(
        Effect.gen(function* () {
          const admin = yield* client(broker).admin
          const [info] = yield* Effect.promise(() =>
            admin.metadata({ topics: [topic] }).then(({ topics }) => [topics.get(topic)])
          )
          const partitions = Array.from({ length: info?.partitionsCount ?? 0 }, (_, partitionIndex) => ({
            partitionIndex,
            timestamp: -1n
          }))
          const ends = yield* Effect.promise(() => admin.listOffsets({ topics: [{ name: topic, partitions }] }))
          return ends[0]?.partitions.reduce((sum, { offset }) => sum + Number(offset), 0) ?? 0
        })
      ),
    /** Reads so many records of a topic from its beginning. */
    read: (topic: string, count: number) =>
      Effect.promise(async () => {
        const consumer = new Client.Consumer({
          ...base,
          groupId: fresh(),
          deserializers: { headerKey: stringDeserializer }
        })
        const stream = await consumer.consume({ topics: [topic], mode: "earliest", autocommit: false })
        const records: Array<Message<Buffer, Buffer, string, Buffer>> = []
        try {
          const each = stream[Symbol.asyncIterator]()
          while (records.length < count) {
            const next = await each.next()
            if (next.done) break
            records.push(next.value)
          }
        } finally {
          await stream.close().catch(() => undefined)
          await consumer.close(true)
        }
        return records
      })
  }
}
