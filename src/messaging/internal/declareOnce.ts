/** Declares each topic at a driver once, before its first use. */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../BrokerError.ts"
import type { Driver, Topology } from "../Driver.ts"

const declared = new WeakMap<Driver, Map<string, Topology>>()

/** Several first uses at the same time may each declare it, which changes nothing. */
export const declareOnce = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> => {
  if (declared.get(driver)?.get(topology.topic) === topology) return Effect.void
  return Effect.map(driver.declare(topology), (answer) => {
    if (answer === "provisional") return
    const topics = declared.get(driver) ?? new Map<string, Topology>()
    topics.set(topology.topic, topology)
    declared.set(driver, topics)
  })
}
