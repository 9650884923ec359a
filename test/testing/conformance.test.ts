/**
 * The conformance suite on the broker in memory, in calm and with faults, and on drivers that do one thing wrong.
 *
 * `MILLRACE_CONFORMANCE_SEEDS` is a list of seeds for the faults.
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer, Logger } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { Memory } from "millrace/memory"
import type { Fixture } from "millrace/testing"
import { brokerConformance, FaultyBroker } from "millrace/testing"
import { conformance } from "../brokers/conformance.ts"
import { fixtureOf, mutants } from "./mutants/index.ts"

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
  lease: 600
})

conformance("memory", memory())

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
  conformance(`memory with faults (${seed})`, { ...memory(), layer: faulty.layer(memory().layer), calm: false })
}

/** A broker in memory that goes away and comes back, to try the cases that need a server. */
const withOutages = (confirms: boolean): Fixture => {
  const down = FaultyBroker.make({ seed: 1, rates: {} })
  const hole = FaultyBroker.make({ seed: 1, rates: {}, hang: "200 millis" })
  const outage = Effect.gen(function* () {
    yield* down.setRates({ all: { failBefore: 1 } })
    yield* Effect.sleep("200 millis")
    yield* down.setRates({})
  })
  const { layer, ...rest } = memory()
  const whole = down.layer(layer)
  return {
    ...rest,
    layer: confirms ? lying(whole) : whole,
    calm: false,
    patience: confirms ? "1 second" : "4 seconds",
    restart: outage,
    crash: outage,
    blackHole: {
      layer: confirms ? lying(hole.layer(layer)) : hole.layer(layer),
      begin: hole.setRates({ all: { hangAfter: 1 } }),
      end: hole.setRates({})
    }
  }
}

/** Confirms what it could not send. */
const lying = (layer: Fixture["layer"]): Fixture["layer"] =>
  Layer.flatMap(layer, (context) => {
    const driver = Context.get(context, Broker.Broker)
    const publish: Driver.Driver["publish"] = (messages) =>
      Effect.catch(driver.publish(messages), () => Effect.succeed(messages.map(() => ({ _tag: "Confirmed" as const }))))
    return Layer.succeed(Broker.Broker, { ...driver, publish })
  })

describe("outages", () => {
  const alone = (fixture: Fixture) => brokerConformance(fixture).filter((one) => one.alone)

  for (const { limit, run, skipped, title } of alone(withOutages(false))) {
    it(title, { timeout: limit }, async () => {
      assert.isUndefined(skipped)
      await Effect.runPromise(Effect.provide(run, Logger.layer([])))
    })
  }

  for (const { id, limit, run } of alone(withOutages(true))) {
    it(`${id}: a driver that confirms what it could not send is caught`, { timeout: limit }, async () => {
      assert.isTrue(Exit.isFailure(await Effect.runPromise(Effect.exit(Effect.provide(run, Logger.layer([]))))))
    })
  }
})

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
