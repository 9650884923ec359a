/** Declares each topic at a driver once, before its first use. */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../BrokerError.ts"
import type { Driver, Topology } from "../Driver.ts"

const declared = new WeakMap<Driver, Map<string, Topology>>()

/** Several first uses at the same time may each declare it, which changes nothing. */
export const declareOnce = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> => {
  const topics = declared.get(driver)
  if (topics?.get(topology.topic) === topology) return Effect.void
  return Effect.tap(driver.declare(topology), () =>
    Effect.sync(() => {
      const topics = declared.get(driver) ?? new Map<string, Topology>()
      topics.set(topology.topic, topology)
      declared.set(driver, topics)
    })
  )
}
