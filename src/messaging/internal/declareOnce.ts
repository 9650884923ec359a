/** Declares each topic at a driver once, before its first use. */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../BrokerError.ts"
import type { Driver, Topology } from "../Driver.ts"

const declared = new WeakMap<Driver, WeakSet<Topology>>()

/** Several first uses at the same time may each declare it, which changes nothing. */
export const declareOnce = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> => {
  if (declared.get(driver)?.has(topology)) return Effect.void
  return Effect.map(driver.declare(topology), (answer) => {
    if (answer === "provisional") return
    const done = declared.get(driver) ?? new WeakSet()
    declared.set(driver, done.add(topology))
  })
}
