/** The contestants of the Kafka benchmarks. Each checks that it has handled everything. */
import { performance } from "node:perf_hooks"
import * as Client from "@platformatic/kafka"
import { Context, Deferred, Effect, Layer, Scope } from "effect"
import * as Schema from "effect/Schema"
import { Consumer, Topic } from "millrace"
import { Kafka } from "millrace/kafka"
import { urlOf } from "../scripts/services/state.ts"
import { Broker } from "../src/messaging/Broker.ts"
import type { Driver, OutgoingMessage } from "../src/messaging/Driver.ts"
import type { Contestant, Sample } from "./harness.ts"
import { verify } from "./harness.ts"

const partitions = 4
const messages = 50_000
const batch = 100
const open = 8

const Value = Schema.Struct({ i: Schema.Number, padding: Schema.String })
const decode = Schema.decodeUnknownSync(Schema.fromJsonString(Value))
const padding = "A".repeat(165)
const jsonOf = (i: number): string => JSON.stringify({ i, padding })
const keyOf = (i: number): string => `key-${i % 1000}`

const layer = () =>
  Kafka.layer({ brokers: [urlOf("kafka", "bootstrap")], createTopics: { partitions, replication: 1 } })
const base = () => ({ clientId: "bench", bootstrapBrokers: [urlOf("kafka", "bootstrap")] })
const fresh = (): string => `bench-${crypto.randomUUID()}`
const run = <A>(effect: Effect.Effect<A, unknown, Scope.Scope>): Promise<A> =>
  Effect.runPromise(Effect.orDie(Effect.scoped(effect)))
const rate = (count: number, start: number): Sample => ({ "messages/s": (count * 1000) / (performance.now() - start) })

/** Open until the process ends, as a service has it. */
let driver: Promise<Driver> | undefined
const openDriver = (): Promise<Driver> => {
  driver ??= Effect.runPromise(
    Effect.map(Scope.provide(Layer.build(layer()), Scope.makeUnsafe()), (context) => Context.get(context, Broker))
  )
  return driver
}

const message = (topic: string, i: number): OutgoingMessage => ({
  destination: { _tag: "Topic", topic },
  envelope: {
    id: `message-${i}`,
    topic,
    source: "bench",
    key: keyOf(i),
    version: 1,
    timestamp: Date.now(),
    contentType: "application/json",
    attempt: 1,
    traceparent: undefined,
    tracestate: undefined,
    correlationId: undefined,
    headers: {},
    history: undefined,
    death: undefined,
    replays: 0
  },
  body: Buffer.from(jsonOf(i))
})

/** Batches from 0 on, a number of them at once. */
const batches = async (each: (first: number) => Promise<unknown>) => {
  let next = 0
  const worker = async () => {
    for (let first = next; first < messages; first = next) {
      next += batch
      await each(first)
    }
  }
  await Promise.all(Array.from({ length: open }, worker))
}

const numbers = (first: number) => Array.from({ length: batch }, (_, i) => first + i)

const makeTopic = async (topic: string) => {
  const driver = await openDriver()
  await Effect.runPromise(driver.declare({ topic, groups: ["bench"] }))
  return driver
}

export const publish: Contestant = {
  name: "millrace",
  measure: async () => {
    const topic = fresh()
    const driver = await makeTopic(topic)
    const start = performance.now()
    await batches(async (first) => {
      const answers = await Effect.runPromise(driver.publish(numbers(first).map((i) => message(topic, i))))
      if (answers.some(({ _tag }) => _tag !== "Confirmed")) throw new Error("not confirmed")
    })
    return rate(messages, start)
  }
}

const record = (topic: string, i: number) => {
  const { envelope } = message(topic, i)
  return {
    topic,
    key: Buffer.from(envelope.key ?? ""),
    value: Buffer.from(jsonOf(i)),
    headers: new Map(
      Object.entries({
        ce_specversion: "1.0",
        ce_id: envelope.id,
        ce_source: envelope.source,
        ce_type: topic,
        ce_time: new Date(envelope.timestamp).toISOString(),
        ce_schemaversion: "1",
        ce_partitionkey: envelope.key ?? "",
        "content-type": envelope.contentType
      }).map(([name, value]) => [Buffer.from(name), Buffer.from(value)] as const)
    )
  }
}

let producer: Client.Producer | undefined

export const publishByClient: Contestant = {
  name: "@platformatic/kafka, send",
  measure: async () => {
    const topic = fresh()
    await makeTopic(topic)
    producer ??= new Client.Producer({ ...base(), idempotent: true, partitioner: Client.compatibilityPartitioner })
    const known = producer
    await known.metadata({ topics: [topic] })
    const start = performance.now()
    await batches((first) => known.send({ acks: -1, messages: numbers(first).map((i) => record(topic, i)) }))
    return rate(messages, start)
  }
}

/** A topic that is full. */
const filled = async (): Promise<string> => {
  const topic = fresh()
  const driver = await makeTopic(topic)
  await batches((first) => Effect.runPromise(driver.publish(numbers(first).map((i) => message(topic, i)))))
  return topic
}

const topicOf = (name: string) =>
  Topic.make(name, { schema: Value, version: 1, key: ({ i }) => keyOf(i), groups: ["bench"] })

export const consume: Contestant = {
  name: "millrace",
  measure: async () => {
    const topic = topicOf(await filled())
    return run(
      Effect.gen(function* () {
        const done = yield* Deferred.make<number>()
        let [count, sum] = [0, 0]
        const start = performance.now()
        const handler = ({ i }: typeof Value.Type) => {
          sum += i
          return ++count === messages ? Deferred.succeed(done, performance.now() - start) : Effect.void
        }
        yield* Consumer.make(topic, handler, { group: "bench", concurrency: 256, prefetch: 2048 })
        const spent = yield* Deferred.await(done)
        verify(sum, messages)
        return { "messages/s": (messages * 1000) / spent }
      }).pipe(Effect.scoped, Effect.provide(layer()))
    )
  }
}

export const consumeByClient: Contestant = {
  name: "@platformatic/kafka, stream + commit",
  measure: async () => {
    const topic = await filled()
    const start = performance.now()
    const consumer = new Client.Consumer({ ...base(), groupId: fresh(), sessionTimeout: 60_000 })
    const stream = await consumer.consume({
      topics: [topic],
      autocommit: false,
      mode: "committed",
      fallbackMode: "earliest",
      maxWaitTime: 250,
      maxBytes: 8 * 1024 * 1024,
      highWaterMark: 2048
    })
    let [count, sum] = [0, 0]
    const offsets = new Map<number, { offset: bigint; leaderEpoch: number }>()
    let committing: Promise<unknown> = Promise.resolve()
    for await (const { leaderEpoch, offset, partition, value } of stream) {
      sum += decode(value.toString()).i
      offsets.set(partition, { offset: offset + 1n, leaderEpoch })
      if (++count % 5_000 === 0 || count === messages) {
        const commit = [...offsets].map(([partition, at]) => ({ topic, partition, ...at }))
        committing = committing.then(() => consumer.commit({ offsets: commit }))
      }
      if (count === messages) break
    }
    const sample = rate(messages, start)
    await committing
    await consumer.close(true)
    verify(sum, messages)
    return sample
  }
}

const busyMessages = 20_000

const measureBusy = (concurrency: number, key: (i: number) => string, count: number) => async (): Promise<Sample> => {
  const name = fresh()
  const driver = await makeTopic(name)
  for (let first = 0; first < count; first += batch) {
    await Effect.runPromise(
      driver.publish(
        numbers(first).map((i) => {
          const one = message(name, i)
          return { ...one, envelope: { ...one.envelope, key: key(i) } }
        })
      )
    )
  }
  return run(
    Effect.gen(function* () {
      const done = yield* Deferred.make<number>()
      let [running, handled, sum, area] = [0, 0, 0, 0]
      const start = performance.now()
      let last = start
      const step = (change: number) => {
        const now = performance.now()
        area += running * (now - last)
        last = now
        running += change
      }
      const handler = ({ i }: typeof Value.Type) =>
        Effect.andThen(
          Effect.andThen(
            Effect.sync(() => step(1)),
            Effect.sleep(5)
          ),
          Effect.suspend(() => {
            step(-1)
            sum += i
            return ++handled === count ? Deferred.succeed(done, performance.now()) : Effect.void
          })
        )
      yield* Consumer.make(topicOf(name), handler, {
        group: "bench",
        concurrency,
        prefetch: concurrency * 4,
        order: "key"
      })
      const end = yield* Deferred.await(done)
      verify(sum, count)
      // On average over all of the time, from the beginning to the last message.
      return { handlers: area / (end - start), "messages/s": (count * 1000) / (end - start) }
    }).pipe(Effect.scoped, Effect.provide(layer()))
  )
}

export const busy: Contestant = { name: "millrace", measure: measureBusy(256, keyOf, busyMessages) }

/** One handler for each partition, as most clients have it: by keys that are as many as partitions, one in each. */
export const busyByPartition: Contestant = {
  name: "one handler for each partition",
  measure: measureBusy(4, (i) => ["a", "d", "c", "f"][i % 4] ?? "", 2_000)
}
