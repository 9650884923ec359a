/** The conformance suite against a real Kafka: in calm, with faults, and with outages. */
import { Effect, Exit, Layer, Scope } from "effect"
import { Kafka } from "millrace/kafka"
import type { Fixture } from "millrace/testing"
import { FaultyBroker } from "millrace/testing"
import { afterAll, beforeAll } from "vitest"
import { conformance } from "../conformance.ts"
import { describeWith } from "../services.ts"
import { proxied } from "./support.ts"

describeWith("kafka", (kafka) => {
  const brokers = [kafka.urls.bootstrap]
  const createTopics = { partitions: 4, replication: 1 }
  const scope = Scope.makeUnsafe()
  let way: Effect.Success<ReturnType<typeof proxied>>
  beforeAll(async () => {
    way = await Effect.runPromise(Scope.provide(proxied(kafka.urls.bootstrap), scope))
  })
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const plain: Fixture = {
    layer: Kafka.layer({ brokers, createTopics }),
    abilities: {
      delay: "none",
      priority: "none",
      order: "native",
      replay: "native",
      browse: "native",
      results: "none"
    },
    lease: "none"
  }
  const outages: Fixture = {
    ...plain,
    restart: kafka.restart(),
    crash: Effect.andThen(Effect.scoped(kafka.kill()), kafka.start),
    blackHole: {
      layer: Layer.unwrap(Effect.sync(() => Kafka.layer({ ...way.options, createTopics }))),
      begin: Effect.suspend(() => way.proxy.stall()),
      end: Effect.suspend(() => way.proxy.restore)
    },
    worker: {
      file: new URL("worker.ts", import.meta.url),
      env: { KAFKA_BROKER: kafka.urls.bootstrap },
      execArgv: ["--conditions=millrace-source"]
    }
  }
  const faulty = FaultyBroker.make({
    seed: "kafka",
    rates: {
      all: { failBefore: 0.04, failAfter: 0.04, hangBefore: 0.01, hangAfter: 0.01, slow: 0.05, partial: 0.05 },
      renew: { failBefore: 0.04, failAfter: 0.04, hangAfter: 0.01, slow: 0.05 }
    },
    hang: "50 millis",
    slow: "5 millis"
  })

  conformance("plain", outages)
  conformance("with faults", { ...plain, layer: faulty.layer(plain.layer), calm: false })
})
