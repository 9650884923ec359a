/** The conformance suite against a real RabbitMQ: in calm, with faults, with outages, with order by key, and with classic queues. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Exit, Layer, Scope } from "effect"
import { DeadLetters } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import { Sqlite } from "millrace/sqlite"
import type { Fixture } from "millrace/testing"
import { FaultyBroker } from "millrace/testing"
import { afterAll, beforeAll } from "vitest"
import { conformance } from "../conformance.ts"
import { describeWith } from "../services.ts"
import { proxied } from "./support.ts"

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const scope = Scope.makeUnsafe()
  let way: Effect.Success<ReturnType<typeof proxied>>
  beforeAll(async () => {
    way = await Effect.runPromise(Scope.provide(proxied(url), scope))
  })
  const folder = mkdtempSync(join(tmpdir(), "millrace-rabbitmq-"))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const quorum: Fixture = {
    layer: RabbitMq.layer({ url }),
    abilities: { delay: "native", priority: "none", order: "none", replay: "none", browse: "none", results: "none" },
    withoutGroup: "rejects",
    lease: "none"
  }
  const classic: Fixture = {
    ...quorum,
    layer: RabbitMq.layer({ url, queueType: "classic", priorities: 5 }),
    abilities: { ...quorum.abilities, priority: "native" }
  }
  const ordered: Fixture = {
    ...quorum,
    layer: RabbitMq.layer({ url, order: true }),
    abilities: { ...quorum.abilities, order: "native" }
  }
  const classicOrdered: Fixture = { ...ordered, layer: RabbitMq.layer({ url, queueType: "classic", order: true }) }
  /** The same with all that can happen to a server, a process and the way between them. */
  const withOutages = (fixture: Fixture, order?: true): Fixture => ({
    ...fixture,
    restart: rabbitmq.restart(),
    crash: Effect.andThen(Effect.scoped(rabbitmq.kill()), rabbitmq.start),
    blackHole: {
      layer: Layer.unwrap(Effect.sync(() => RabbitMq.layer({ url: way.url, heartbeat: "1 second", order }))),
      begin: Effect.suspend(() => way.proxy.stall()),
      end: Effect.suspend(() => way.proxy.restore)
    },
    worker: {
      file: new URL("worker.ts", import.meta.url),
      env: { RABBITMQ_URL: url, ORDER: order ? "yes" : "no" },
      execArgv: ["--conditions=millrace-source"]
    }
  })
  const faulty = FaultyBroker.make({
    seed: "rabbitmq",
    rates: {
      all: { failBefore: 0.04, failAfter: 0.04, hangBefore: 0.01, hangAfter: 0.01, slow: 0.05, partial: 0.05 },
      renew: { failBefore: 0.04, failAfter: 0.04, hangAfter: 0.01, slow: 0.05 }
    },
    hang: "50 millis",
    slow: "5 millis"
  })

  const withFaults = (fixture: Fixture): Fixture => ({ ...fixture, layer: faulty.layer(fixture.layer), calm: false })

  conformance("quorum", withOutages(quorum))
  conformance("in order", withOutages(ordered, true))
  conformance("classic", classic)
  conformance("classic in order", classicOrdered)
  conformance("with letters beside it", {
    ...quorum,
    layer: Layer.unwrap(
      Effect.sync(() => DeadLetters.emulate(RabbitMq.layer({ url }), Sqlite.layer({ filename: join(folder, "l.db") })))
    ),
    abilities: { ...quorum.abilities, browse: "emulated" }
  })
  conformance("with faults", withFaults(quorum))
  conformance("in order with faults", withFaults(ordered))
})
