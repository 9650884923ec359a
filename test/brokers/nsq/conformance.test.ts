/** The conformance suite against real nsqd: one of them with outages, two found by nsqlookupd, with letters, with faults. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { it } from "@effect/vitest"
import { Effect, Exit, Layer, Logger, Scope } from "effect"
import { DeadLetters } from "millrace"
import { Nsq } from "millrace/nsq"
import { Sqlite } from "millrace/sqlite"
import type { Fixture } from "millrace/testing"
import { brokerConformance, FaultyBroker } from "millrace/testing"
import { afterAll, beforeAll } from "vitest"
import { describeWith } from "../services.ts"
import { proxied } from "./support.ts"

describeWith("nsq", (nsq) => {
  const { lookupd, nsqd1, nsqd1Http } = nsq.urls
  const scope = Scope.makeUnsafe()
  let way: Effect.Success<ReturnType<typeof proxied>>
  beforeAll(async () => {
    way = await Effect.runPromise(Scope.provide(proxied(nsqd1), scope))
  })
  const folder = mkdtempSync(join(tmpdir(), "millrace-nsq-"))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

  const one: Fixture = {
    layer: Nsq.layer({ nsqd: [{ tcp: nsqd1, http: nsqd1Http }] }),
    abilities: { delay: "native", priority: "none", order: "none", replay: "none", browse: "none", results: "none" },
    lease: 1000
  }
  // A killed nsqd loses what it has in its hands, whatever its client does: outages.test.ts says how much that is.
  const outages: Fixture = {
    ...one,
    restart: nsq.restart("nsqd1"),
    blackHole: {
      layer: Layer.unwrap(Effect.sync(() => Nsq.layer({ nsqd: [way.address], heartbeat: "1 second" }))),
      begin: Effect.suspend(() => way.proxy.stall()),
      end: Effect.suspend(() => way.proxy.restore)
    },
    worker: {
      file: new URL("worker.ts", import.meta.url),
      env: { NSQD: nsqd1 },
      execArgv: ["--conditions=millrace-source"]
    }
  }
  const two: Fixture = {
    ...one,
    layer: Nsq.layer({ lookupd: [lookupd], lookupInterval: "500 millis" }),
    // Each nsqd looks after the delays of a new channel within 5 seconds, then every 100 ms, and none knows of the others.
    lateness: 5100,
    restart: nsq.restart()
  }
  const faulty = FaultyBroker.make({
    seed: "nsq",
    rates: {
      all: { failBefore: 0.04, failAfter: 0.04, hangBefore: 0.01, hangAfter: 0.01, slow: 0.05, partial: 0.05 },
      renew: { failBefore: 0.04, failAfter: 0.04, hangAfter: 0.01, slow: 0.05, lose: 0.02 }
    },
    hang: "50 millis",
    slow: "5 millis"
  })

  const suite = (name: string, fixture: Fixture) => {
    for (const { limit, run, skipped, title } of brokerConformance(fixture)) {
      it.skipIf(skipped !== undefined)(`${name}: ${title}`, { timeout: limit + 1000 }, () =>
        Effect.runPromise(Effect.provide(run, Logger.layer([])))
      )
    }
  }
  suite("one nsqd", outages)
  suite("two nsqd", two)
  suite("with letters beside it", {
    ...one,
    layer: Layer.unwrap(
      Effect.sync(() => DeadLetters.emulate(one.layer, Sqlite.layer({ filename: join(folder, "letters.db") })))
    ),
    abilities: { ...one.abilities, browse: "emulated" }
  })
  suite("with faults", { ...one, layer: faulty.layer(one.layer), calm: false })
})
