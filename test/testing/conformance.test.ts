/** The conformance suite on the broker in memory, in calm and with faults. */
import { describe, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import { Memory } from "millrace/memory"
import type { Fixture } from "millrace/testing"
import { brokerConformance } from "millrace/testing"

const memory = (): Fixture => ({
  layer: Memory.layer({ store: Memory.makeStore(), retain: 100_000 }),
  abilities: {
    delay: "native",
    priority: "native",
    order: "native",
    replay: "native",
    browse: "native",
    results: "none"
  },
  lease: 200
})

describe.concurrent("memory", () => {
  for (const { limit, run, skipped, title } of brokerConformance(memory())) {
    it.skipIf(skipped !== undefined)(title, { timeout: limit + 1000 }, () =>
      Effect.runPromise(Effect.provide(run, Logger.layer([])))
    )
  }
})
