/**
 * NSQ: publishing one by one and in batches, and consuming, beside nsqjs and, where Go is installed, go-nsq.
 *
 * All send and read the same JSON, in JavaScript through the same Schema, to the same nsqd, into topics with one channel, with
 * the same number unconfirmed and the same RDY. go-nsq and the first nsqjs send bare messages; the second one wraps each in
 * the envelope that Millrace's have. All consume what Millrace has published.
 */
import { performance } from "node:perf_hooks"
import { setImmediate } from "node:timers/promises"
import { Effect, Exit, Layer, Logger, ManagedRuntime, Scope } from "effect"
import { Consumer, Topic } from "millrace"
import { Nsq, NsqProtocol } from "millrace/nsq"
import type { Message } from "nsqjs"
import nsqjs from "nsqjs"
import { urlOf } from "../scripts/services/state.ts"
import type { Bench, Contestant, Sample } from "./harness.ts"
import { decode, encode, Order, orderOf } from "./order.ts"
import { goBinary, program } from "./programs.ts"

const { Reader, Writer } = nsqjs

const unconfirmed = 256
const prefetch = 256
const count = 20_000
const batch = 100

const group = "bench"
const topicOf = (name: string) =>
  Topic.make(`bench.${name}.${process.pid}`, { schema: Order, version: 1, groups: [group] })

const sample = (start: number): Sample => ({ "messages/s": (count * 1000) / (performance.now() - start) })

const host = () => urlOf("nsq", "nsqd1")
const http = () => urlOf("nsq", "nsqd1Http")

const runtime = () =>
  ManagedRuntime.make(Layer.merge(Nsq.layer({ nsqd: [{ tcp: host(), http: http() }] }), Logger.layer([])))

/** A topic with the channel that Millrace declares: nsqd puts each message into both. */
const createTopic = async (topic: string): Promise<void> => {
  for (const what of [`topic/create?topic=${topic}`, `channel/create?topic=${topic}&channel=${group}`]) {
    const { status } = await fetch(`${http()}/${what}`, { method: "POST" })
    if (status !== 200) throw new Error(`${what} was answered with ${status}`)
  }
}

/** Waits until all are there, also what is between the topic and its channel, and removes them. */
const removeAll = async (topic: string): Promise<void> => {
  const end = performance.now() + 10_000
  for (;;) {
    const stats = await Effect.runPromise(NsqProtocol.Lookup.stats(http(), topic))
    const there = (stats?.depth ?? 0) + (stats?.channels?.[0]?.depth ?? 0)
    if (there === count) break
    if (there > count || performance.now() > end) throw new Error(`${there} of ${count} messages are there`)
  }
  await Effect.runPromise(NsqProtocol.Lookup.deleteTopic(http(), topic))
}

// ---------------------------------------------------------------------------------------------------------------------
// Publish
// ---------------------------------------------------------------------------------------------------------------------

const oursPublishes = (inBatches: boolean): Contestant => {
  let running: ReturnType<typeof runtime> | undefined
  let round = 0
  return {
    name: "Millrace",
    measure: async () => {
      running ??= runtime()
      const topic = topicOf(`ours.${round++}`)
      // The others' topics are there before the clock starts, too.
      await running.runPromise(topic.declare)
      let next = 0
      const publishOne = () => topic.publish(orderOf(next++))
      const publishBatch = () => topic.publishAll(Array.from({ length: batch }, () => orderOf(next++)))
      const more = { while: () => next < count, step: () => undefined }
      const publisher = inBatches
        ? Effect.whileLoop({ ...more, body: publishBatch })
        : Effect.whileLoop({ ...more, body: publishOne })
      const publishers = inBatches ? 4 : unconfirmed
      const program = Effect.all(
        Array.from({ length: publishers }, () => publisher),
        { concurrency: "unbounded", discard: true }
      )
      const start = performance.now()
      await running.runPromise(program)
      const result = sample(start)
      await removeAll(topic.name)
      return result
    }
  }
}

const openWriter = async () => {
  const [address = "", port = ""] = host().split(":")
  const writer = new Writer(address, Number(port))
  await new Promise<void>((resolve, reject) => {
    writer.once("ready", resolve)
    writer.once("error", reject)
    writer.connect()
  })
  return writer
}

/** What stands before the payload of {@link Topic}, as a program without Millrace would write it. */
const withEnvelope = (topic: string, payload: Buffer): Buffer => {
  const envelope = Buffer.from(
    JSON.stringify({
      specversion: "1.0",
      id: crypto.randomUUID(),
      source: "//bench",
      type: topic,
      time: new Date().toISOString(),
      schemaversion: "1",
      datacontenttype: "application/json"
    })
  )
  const head = Buffer.alloc(8)
  head.writeUInt32BE(0x894d5231)
  head.writeUInt32BE(envelope.byteLength, 4)
  return Buffer.concat([head, envelope, payload])
}

const theirsPublish = (name: string, inBatches: boolean, wrap: typeof withEnvelope): Contestant => {
  let opened: ReturnType<typeof openWriter> | undefined
  let round = 0
  return {
    name,
    measure: async () => {
      opened ??= openWriter()
      const writer = await opened
      const topic = topicOf(`nsqjs.${round++}`).name
      await createTopic(topic)
      const each = inBatches ? batch : 1
      const start = performance.now()
      await new Promise<void>((resolve, reject) => {
        let [sent, confirmed] = [0, 0]
        const body = () => wrap(topic, Buffer.from(JSON.stringify(encode(orderOf(sent++)))))
        const send = () => {
          if (sent >= count) return
          const messages = inBatches ? Array.from({ length: batch }, body) : body()
          writer.publish(topic, messages, (error) => {
            if (error) return reject(error)
            confirmed += each
            if (confirmed === count) resolve()
            else send()
          })
        }
        for (let i = 0; i < (inBatches ? 4 : unconfirmed); i++) send()
      })
      const result = sample(start)
      await removeAll(topic)
      return result
    }
  }
}

const publishers = (inBatches: boolean): ReadonlyArray<Contestant> => [
  theirsPublish("nsqjs", inBatches, (_, payload) => payload),
  theirsPublish("nsqjs with the same envelope", inBatches, withEnvelope)
]

const goPublishes = (inBatches: boolean) => async (): Promise<ReadonlyArray<Contestant>> => {
  const binary = await goBinary("go-nsq")
  if (binary === undefined) return []
  let round = 0
  return [
    {
      name: "go-nsq",
      program: true,
      measure: async () => {
        const topic = topicOf(`go.${round++}`).name
        await createTopic(topic)
        const sizes = inBatches ? [4, batch] : [unconfirmed, 1]
        const result = await program("go-nsq", binary, [
          "publish",
          host(),
          topic,
          `${count}`,
          ...sizes.map(String)
        ]).measure()
        await removeAll(topic)
        return result
      }
    }
  ]
}

// ---------------------------------------------------------------------------------------------------------------------
// Consume
// ---------------------------------------------------------------------------------------------------------------------

const fill = (topic: ReturnType<typeof topicOf>) =>
  Effect.gen(function* () {
    for (let n = 0; n < count; n += 1000) {
      yield* topic.publishAll(Array.from({ length: 1000 }, (_, i) => orderOf(n + i)))
    }
  })

const check = (sum: number): void => {
  if (sum !== (count * (count - 1)) / 2) throw new Error("the messages that were handled are not those published")
}
const numberOf = ({ total }: Order): number => Math.round(total * 100)

const isFinished = async (topic: string): Promise<void> => {
  for (;;) {
    const stats = await Effect.runPromise(NsqProtocol.Lookup.stats(http(), topic))
    const channel = stats?.channels?.[0]
    if (channel?.in_flight_count === 0 && channel.depth === 0) break
  }
  await Effect.runPromise(NsqProtocol.Lookup.deleteTopic(http(), topic))
}

const oursConsumes = (): Contestant => {
  let running: ReturnType<typeof runtime> | undefined
  let round = 0
  return {
    name: "Millrace",
    measure: async () => {
      running ??= runtime()
      const topic = topicOf(`ours.${round++}`)
      await running.runPromise(fill(topic))
      let [sum, handled] = [0, 0]
      let finish = (): void => {}
      const finished = new Promise<void>((resolve) => {
        finish = resolve
      })
      const scope = Scope.makeUnsafe()
      const start = performance.now()
      const consuming = Consumer.make(
        topic,
        (order) =>
          Effect.sync(() => {
            sum += numberOf(order)
            if (++handled === count) finish()
          }),
        { group, prefetch }
      )
      const consumer = await running.runPromise(Scope.provide(consuming, scope))
      await finished
      while ((await running.runPromise(consumer.accounting)).acknowledged < count) await setImmediate()
      const result = sample(start)
      await isFinished(topic.name)
      await running.runPromise(Scope.close(scope, Exit.void))
      check(sum)
      return result
    }
  }
}

const theirsConsume = (): Contestant => {
  let running: ReturnType<typeof runtime> | undefined
  let round = 0
  return {
    name: "nsqjs",
    measure: async () => {
      running ??= runtime()
      const topic = topicOf(`nsqjs.${round++}`)
      await running.runPromise(fill(topic))
      const start = performance.now()
      const reader = new Reader(topic.name, group, {
        nsqdTCPAddresses: [host()],
        maxInFlight: prefetch,
        outputBufferTimeout: 25
      })
      let [sum, handled] = [0, 0]
      await new Promise<void>((resolve, reject) => {
        reader.on("error", reject)
        reader.on("message", (message: Message) => {
          const { body } = message
          const order = decode(JSON.parse(body.toString("utf8", 8 + body.readUInt32BE(4))))
          sum += numberOf(order)
          message.finish()
          if (++handled === count) resolve()
        })
        reader.connect()
      })
      const result = sample(start)
      await isFinished(topic.name)
      reader.close()
      check(sum)
      return result
    }
  }
}

const goConsumes = async (): Promise<ReadonlyArray<Contestant>> => {
  const binary = await goBinary("go-nsq")
  if (binary === undefined) return []
  let round = 0
  return [
    {
      name: "go-nsq",
      program: true,
      measure: async () => {
        const topic = topicOf(`go.${round++}`)
        const running = runtime()
        await running.runPromise(fill(topic))
        await running.dispose()
        const args = ["consume", host(), topic.name, `${count}`, `${prefetch}`]
        const result = await program("go-nsq", binary, args).measure()
        await isFinished(topic.name)
        return result
      }
    }
  ]
}

const units = { "messages/s": "more" } as const

export const benches: ReadonlyArray<Bench> = [
  {
    name: "nsq-publish",
    about: `${count} messages of 200 bytes, one at a time, each encoded by Schema and confirmed, ${unconfirmed} unconfirmed`,
    units,
    ours: oursPublishes(false),
    peers: publishers(false),
    optional: goPublishes(false)
  },
  {
    name: "nsq-publish-batches",
    about: `the same in batches of ${batch}, 4 of them unconfirmed`,
    units,
    ours: oursPublishes(true),
    peers: publishers(true),
    optional: goPublishes(true)
  },
  {
    name: "nsq-consume",
    about: `${count} messages of 200 bytes, each decoded by Schema and finished, ${prefetch} in flight`,
    units,
    ours: oursConsumes(),
    peers: [theirsConsume()],
    optional: goConsumes
  }
]
