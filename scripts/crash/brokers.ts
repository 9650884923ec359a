/**
 * The brokers that can be checked: how each is reached, and what it promises.
 */
import { join } from "node:path"
import { Effect, type Layer, Stream } from "effect"
import type { Broker } from "millrace"
import { DeadLetters } from "millrace"
import { Kafka } from "millrace/kafka"
import { Nsq } from "millrace/nsq"
import { RabbitMq } from "millrace/rabbitmq"
import { Sqlite } from "millrace/sqlite"
import { urlOf } from "../services/state.ts"
import type { Letter } from "./history.ts"
import * as nsqServers from "./nsq.ts"
import { clear, readLetters } from "./rabbitmq.ts"
import { groups, Steps } from "./scenario.ts"

type Orderly = Broker.Broker<"order">

interface Checked {
  /** Removes what an earlier check has left behind. */
  readonly prepare?: () => Promise<void>
  /** A broker without order is typed as one with it, and not asked for it. */
  readonly layer: (folder: string) => Layer.Layer<Orderly, Broker.BrokerError>
  readonly ordered: boolean
  readonly deadLetters: (folder: string) => Promise<ReadonlyArray<Letter>>
}

const sqlite = (folder: string) => Sqlite.layer({ filename: join(folder, "crash.db") })

const browse = (layer: Layer.Layer<Broker.Broker<"browse">, Broker.BrokerError>): Promise<ReadonlyArray<Letter>> =>
  Stream.runCollect(DeadLetters.list(Steps)).pipe(
    Effect.map((letters) => letters.map(({ attempts, group, id }) => ({ id, group, attempts: attempts.length }))),
    Effect.provide(layer),
    Effect.runPromise
  )

/** Servers are those of `npm run services`, where they are up. */
const rabbitmq = (): string => urlOf("rabbitmq", "amqp")
const kafka = () =>
  Kafka.layer({ brokers: [urlOf("kafka", "bootstrap")], createTopics: { partitions: 4, replication: 1 } })

export const brokers: Readonly<Record<string, Checked>> = {
  sqlite: { layer: sqlite, ordered: true, deadLetters: (folder) => browse(sqlite(folder)) },
  rabbitmq: {
    prepare: () => clear(rabbitmq()),
    layer: () =>
      RabbitMq.layer({ url: rabbitmq(), order: groups.filter(({ order }) => order).map(({ name }) => name) }),
    ordered: true,
    deadLetters: () => readLetters(rabbitmq())
  },
  nsq: {
    prepare: nsqServers.clear,
    // It is not asked for order.
    layer: () =>
      Nsq.layer({ lookupd: [urlOf("nsq", "lookupd")] }) as unknown as Layer.Layer<Orderly, Broker.BrokerError>,
    ordered: false,
    deadLetters: nsqServers.readLetters
  },
  kafka: { layer: kafka, ordered: true, deadLetters: () => browse(kafka()) }
}

export const layerOf = (broker: string, folder: string): Layer.Layer<Orderly, Broker.BrokerError> => {
  const found = brokers[broker]
  if (found === undefined) throw new Error(`no broker "${broker}"; there is ${Object.keys(brokers).join(", ")}`)
  return found.layer(folder)
}

/** The option that asks for order, where the broker has it. */
export const orderOf = (broker: string): { readonly order?: "key" } =>
  brokers[broker]?.ordered ? { order: "key" } : {}
