/** What the tests of Kafka share. */
import { Effect } from "effect"
import { Kafka } from "millrace/kafka"
import { TcpProxy } from "millrace/testing"

const createTopics = { partitions: 4, replication: 1 }

/** The server, with topics of four partitions that are made when they are needed. */
export const layerAt = (broker: string, options: Partial<Kafka.Options<"default">> = {}) =>
  Kafka.layer({ brokers: [broker], createTopics, ...options })

/** A proxy in front of the server, and the way to it by the proxy alone. */
export const proxied = (broker: string) =>
  Effect.map(TcpProxy.make({ port: Number(broker.split(":")[1]) }), (proxy) => {
    const address = `${proxy.host}:${proxy.port}`
    return { proxy, options: { brokers: [address], address: () => address } }
  })

/** A name that nobody has used. */
export const fresh = (): string => `test-${crypto.randomUUID().slice(0, 8)}`
