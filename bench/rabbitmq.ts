/**
 * RabbitMQ: publishing with confirms, and consuming with acknowledgements, beside the client's own loop.
 *
 * Both sides send and read the same JSON through the same Schema, persistent and mandatory, to the same kind of queue, with
 * the same number unconfirmed and the same prefetch. One peer sends bare messages, the other those that Millrace sends, with
 * its envelope. Messages are consumed with Millrace's envelope by both, and in order by key once more: a loop by itself is in
 * order, since it handles one message after the other.
 */
import { performance } from "node:perf_hooks"
import { setImmediate, setTimeout } from "node:timers/promises"
import type { ChannelModel, ConfirmChannel } from "amqplib"
import { connect } from "amqplib"
import { Effect, Exit, Layer, Logger, ManagedRuntime, Scope } from "effect"
import { Consumer, Topic } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import { read } from "../scripts/services/state.ts"
import type { Bench, Contestant, Sample } from "./harness.ts"
import { decode, encode, Order, orderOf } from "./order.ts"

const unconfirmed = 256
const prefetch = 256
const published = 20_000
/** What Millrace lets the server hand out where it keeps order by key. */
const handedOut = 1000
const consumed = 40_000

const url = (): string => {
  const found = read().rabbitmq?.urls.amqp
  if (found === undefined) throw new Error("there is no RabbitMQ; `npm run services -- up rabbitmq` starts one")
  return found
}

const group = "bench"
const topicOf = (name: string) =>
  Topic.make(`bench.${name}.${process.pid}`, {
    schema: Order,
    version: 1,
    key: ({ customer }) => customer,
    groups: [group]
  })

const sample = (messages: number, start: number): Sample => ({
  "messages/s": (messages * 1000) / (performance.now() - start)
})

/** The client by itself, opened on first use; the queue goes with the process. */
const raw = (topic: string) => {
  let opened: Promise<{ readonly model: ChannelModel; readonly channel: ConfirmChannel }> | undefined
  const open = async () => {
    const model = await connect(url(), { noDelay: true })
    const channel = await model.createConfirmChannel()
    process.once("disconnect", () => void channel.deleteQueue(`${topic}:${group}`))
    return { model, channel }
  }
  return () => {
    opened ??= open()
    return opened
  }
}

const runtime = () =>
  ManagedRuntime.make(Layer.merge(RabbitMq.layer({ url: url(), maxUnconfirmed: unconfirmed }), Logger.layer([])))

const orderedRuntime = () =>
  ManagedRuntime.make(
    Layer.merge(RabbitMq.layer({ url: url(), maxUnconfirmed: unconfirmed, order: true }), Logger.layer([]))
  )

// ---------------------------------------------------------------------------------------------------------------------
// Publish
// ---------------------------------------------------------------------------------------------------------------------

const purge = async (client: ReturnType<typeof raw>, topic: string): Promise<void> => {
  const { channel } = await client()
  const { messageCount } = await channel.purgeQueue(`${topic}:${group}`)
  if (messageCount !== published) throw new Error(`${messageCount} of ${published} messages are there`)
}

const oursPublishes = (): Contestant => {
  const topic = topicOf("ours")
  const client = raw(topic.name)
  let running: ReturnType<typeof runtime> | undefined
  return {
    name: "Millrace",
    measure: async () => {
      running ??= runtime()
      let next = 0
      const publisher = Effect.whileLoop({
        while: () => next < published,
        body: () => topic.publish(orderOf(next++)),
        step: () => undefined
      })
      const program = Effect.all(
        Array.from({ length: unconfirmed }, () => publisher),
        { concurrency: "unbounded", discard: true }
      )
      const start = performance.now()
      await running.runPromise(program)
      const result = sample(published, start)
      await purge(client, topic.name)
      return result
    }
  }
}

const rawPublishes = (name: string, envelope: boolean): Contestant => {
  const topic = topicOf(envelope ? "envelope" : "bare")
  const client = raw(topic.name)
  return {
    name,
    measure: async () => {
      const { channel } = await client()
      const queue = `${topic.name}:${group}`
      await channel.assertExchange(topic.name, "fanout")
      await channel.assertQueue(queue, { arguments: { "x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000 } })
      await channel.bindQueue(queue, topic.name, "")
      const start = performance.now()
      await new Promise<void>((resolve, reject) => {
        let [sent, confirmed] = [0, 0]
        const done = (error: unknown) => {
          if (error !== null) return reject(error)
          confirmed++
          if (confirmed === published) resolve()
          else send()
        }
        const send = () => {
          if (sent === published) return
          const order = orderOf(sent++)
          const body = Buffer.from(JSON.stringify(encode(order)))
          const id = crypto.randomUUID()
          const options = { persistent: true, mandatory: true, messageId: id, contentType: "application/json" }
          if (!envelope) return channel.publish(topic.name, "", body, options, done)
          const now = Date.now()
          const headers = {
            "cloudEvents:specversion": "1.0",
            "cloudEvents:id": id,
            "cloudEvents:source": "//bench",
            "cloudEvents:type": topic.name,
            "cloudEvents:time": new Date(now).toISOString(),
            "cloudEvents:schemaversion": "1",
            "cloudEvents:partitionkey": order.customer
          }
          const properties = { ...options, headers, type: topic.name, timestamp: Math.floor(now / 1000) }
          return channel.publish(topic.name, "", body, properties, done)
        }
        for (let i = 0; i < unconfirmed; i++) send()
      })
      const result = sample(published, start)
      await purge(client, topic.name)
      return result
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Consume
// ---------------------------------------------------------------------------------------------------------------------

/** Publishes what is consumed, as Millrace does. */
const fill = (topic: ReturnType<typeof topicOf>) =>
  Effect.gen(function* () {
    for (let n = 0; n < consumed; n += 1000) {
      yield* topic.publishAll(Array.from({ length: 1000 }, (_, i) => orderOf(n + i)))
    }
  })

const check = (sum: number): void => {
  if (sum !== (consumed * (consumed - 1)) / 2)
    throw new Error("the messages that were handled are not those that were published")
}
const numberOf = ({ total }: Order): number => Math.round(total * 100)

const oursConsumes = (ordered: boolean): Contestant => {
  const topic = topicOf(ordered ? "ordered" : "ours")
  const client = raw(topic.name)
  let running: ReturnType<typeof orderedRuntime> | undefined
  return {
    name: ordered ? "Millrace, in order by key" : "Millrace",
    measure: async () => {
      // Without order nothing asks for it.
      running ??= ordered ? orderedRuntime() : (runtime() as ReturnType<typeof orderedRuntime>)
      await running.runPromise(fill(topic))
      let [sum, handled] = [0, 0]
      let finish = (): void => {}
      const finished = new Promise<void>((resolve) => {
        finish = resolve
      })
      const scope = Scope.makeUnsafe()
      const start = performance.now()
      const handle = (order: Order) =>
        Effect.sync(() => {
          sum += numberOf(order)
          if (++handled === consumed) finish()
        })
      const consuming = ordered
        ? Consumer.make(topic, handle, { group, prefetch, order: "key" })
        : Consumer.make(topic, handle, { group, prefetch })
      const consumer = await running.runPromise(Scope.provide(consuming, scope))
      await finished
      while ((await running.runPromise(consumer.accounting)).acknowledged < consumed) await setImmediate()
      const result = sample(consumed, start)
      await running.runPromise(Scope.close(scope, Exit.void))
      check(sum)
      await isEmpty(client, topic.name)
      return result
    }
  }
}

const isEmpty = async (client: ReturnType<typeof raw>, topic: string): Promise<void> => {
  const { channel } = await client()
  const { messageCount } = await channel.checkQueue(`${topic}:${group}`)
  if (messageCount !== 0) throw new Error(`${messageCount} messages are there again`)
}

const rawConsumes = (ordered: boolean): Contestant => {
  const topic = topicOf(ordered ? "raw-ordered" : "raw")
  const client = raw(topic.name)
  let running: ReturnType<typeof runtime> | undefined
  return {
    name: "amqplib",
    measure: async () => {
      running ??= ordered ? orderedRuntime() : runtime()
      await running.runPromise(fill(topic))
      const { model } = await client()
      const start = performance.now()
      const channel = await model.createChannel()
      await channel.prefetch(ordered ? handedOut : prefetch)
      let [sum, handled] = [0, 0]
      await new Promise<void>((resolve, reject) => {
        const handle = (message: Parameters<Parameters<ConfirmChannel["consume"]>[1]>[0]) => {
          if (message === null) return reject(new Error("the consumer was cancelled"))
          sum += numberOf(decode(JSON.parse(message.content.toString())))
          channel.ack(message)
          if (++handled === consumed) resolve()
        }
        channel.consume(`${topic.name}:${group}`, handle).catch(reject)
      })
      const result = sample(consumed, start)
      // The server has still to pass the last of them on to the queue.
      await setTimeout(200)
      await channel.close()
      check(sum)
      await isEmpty(client, topic.name)
      return result
    }
  }
}

export const benches: ReadonlyArray<Bench> = [
  {
    name: "rabbitmq-publish",
    about: `${published} messages of 200 bytes with a key, each encoded by Schema and confirmed, ${unconfirmed} unconfirmed`,
    units: { "messages/s": "more" },
    ours: oursPublishes(),
    peers: [rawPublishes("amqplib, with the same envelope", true), rawPublishes("amqplib, bare messages", false)]
  },
  {
    name: "rabbitmq-consume",
    about: `${consumed} messages of 200 bytes, each decoded by Schema and acknowledged, prefetch ${prefetch}`,
    units: { "messages/s": "more" },
    ours: oursConsumes(false),
    peers: [rawConsumes(false)]
  },
  {
    name: "rabbitmq-consume-in-order",
    about: "the same in the order of 1,000 keys, from a queue with a single active consumer",
    units: { "messages/s": "more" },
    ours: oursConsumes(true),
    peers: [rawConsumes(true)]
  }
]
