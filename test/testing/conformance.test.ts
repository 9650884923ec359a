/**
 * The conformance suite on the broker in memory, in calm and with faults, and on drivers that do one thing wrong.
 *
 * `MILLRACE_CONFORMANCE_SCALE=1` runs it in full; `MILLRACE_CONFORMANCE_SEEDS` is a list of seeds for the faults.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Logger } from "effect"
import { Memory } from "millrace/memory"
import type { Fixture } from "millrace/testing"
import { brokerConformance, FaultyBroker } from "millrace/testing"
import { fixtureOf, mutants } from "./mutants.ts"

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
  lease: 200,
  scale: Number(process.env.MILLRACE_CONFORMANCE_SCALE ?? 0.1)
})

const suite = (name: string, fixture: Fixture) =>
  describe.concurrent(name, () => {
    for (const { limit, run, skipped, title } of brokerConformance(fixture)) {
      it.skipIf(skipped !== undefined)(title, { timeout: limit + 1000 }, () =>
        Effect.runPromise(Effect.provide(run, Logger.layer([])))
      )
    }
  })

suite("memory", memory())

for (const seed of (process.env.MILLRACE_CONFORMANCE_SEEDS ?? "1,2").split(",")) {
  const faulty = FaultyBroker.make({
    seed,
    rates: {
      all: { failBefore: 0.04, failAfter: 0.04, hangBefore: 0.01, hangAfter: 0.01, slow: 0.05, partial: 0.05 },
      renew: { failBefore: 0.04, failAfter: 0.04, hangAfter: 0.01, slow: 0.05, lose: 0.02 }
    },
    hang: "50 millis",
    slow: "5 millis"
  })
  suite(`memory with faults (${seed})`, { ...memory(), layer: faulty.layer(memory().layer), calm: false })
}

describe.concurrent("a driver that", () => {
  for (const mutant of mutants) {
    it(`${mutant.name} is caught`, { timeout: 60_000 }, async () => {
      const cases = brokerConformance(fixtureOf(mutant))
      for (const id of mutant.caughtBy) {
        const one = cases.find((one) => one.id === id)
        if (one === undefined) assert.fail(`there is no case "${id}"`)
        assert.isUndefined(one.skipped, id)
        const exit = await Effect.runPromise(Effect.exit(Effect.provide(one.run, Logger.layer([]))))
        assert.isTrue(Exit.isFailure(exit), `"${id}" does not notice`)
      }
    })
  }
})
