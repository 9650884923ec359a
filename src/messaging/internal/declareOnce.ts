/** Declares each topic at a driver once, before its first use. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { BrokerError } from "../BrokerError.ts"
import type { Driver, Topology } from "../Driver.ts"

/** True when it is declared; the outcome of the declaration that is under way, which is false where it was interrupted. */
type Declared = true | Deferred.Deferred<boolean, BrokerError>

const known = new WeakMap<Driver, WeakMap<Topology, Declared>>()

/** First uses at the same time share one declaration: a thousand publishers would else open a thousand connections for it. */
export const declareOnce = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> => {
  const declared = known.get(driver)?.get(topology)
  if (declared === true) return Effect.void
  if (declared === undefined) return declare(driver, topology)
  return Effect.flatMap(Deferred.await(declared), (done) => (done ? Effect.void : declareOnce(driver, topology)))
}

const declare = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> =>
  Effect.uninterruptibleMask((restore) => {
    const all = known.get(driver) ?? new WeakMap<Topology, Declared>()
    // Between the look that led here and now another may have begun.
    if (all.has(topology)) return restore(declareOnce(driver, topology))
    const outcome = Deferred.makeUnsafe<boolean, BrokerError>()
    known.set(driver, all.set(topology, outcome))
    const end = (exit: Exit.Exit<unknown, BrokerError>) =>
      Effect.sync(() => {
        if (Exit.isSuccess(exit) && exit.value !== "provisional") all.set(topology, true)
        else all.delete(topology)
        Deferred.doneUnsafe(outcome, toOthers(exit))
      })
    return Effect.asVoid(Effect.onExit(restore(Effect.suspend(() => driver.declare(topology))), end))
  })

const toOthers = (exit: Exit.Exit<unknown, BrokerError>): Exit.Exit<boolean, BrokerError> => {
  if (Exit.isSuccess(exit)) return Exit.succeed(true)
  return Exit.hasInterrupts(exit) ? Exit.succeed(false) : Exit.failCause(exit.cause)
}
