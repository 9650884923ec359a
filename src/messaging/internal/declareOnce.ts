/** Declares each topic at a driver once, before its first use. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { BrokerError } from "../BrokerError.ts"
import type { Driver, Topology } from "../Driver.ts"

/** True when it is declared; else the end of the declaration that is under way. */
type Declared = true | Deferred.Deferred<void, BrokerError>

const known = new WeakMap<Driver, WeakMap<Topology, Declared>>()

const knownOf = (driver: Driver): WeakMap<Topology, Declared> => {
  const all = known.get(driver) ?? new WeakMap<Topology, Declared>()
  known.set(driver, all)
  return all
}

export const declareOnce = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> => {
  const declared = known.get(driver)?.get(topology)
  if (declared === true) return Effect.void
  if (declared !== undefined) return Deferred.await(declared)
  return driver.inTransactions === true ? declareAlone(driver, topology) : declareForAll(driver, topology)
}

/** One may hold the lock for which another waits, so each declares it in its own transaction. */
const declareAlone = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> =>
  Effect.map(driver.declare(topology), (answer) => {
    if (answer !== "provisional") knownOf(driver).set(topology, true)
  })

/**
 * First uses at the same time share one declaration: a thousand publishers would else open a thousand connections for it. It
 * goes on by itself, since those who wait may be interrupted, the first of them too.
 */
const declareForAll = (driver: Driver, topology: Topology): Effect.Effect<void, BrokerError> =>
  Effect.uninterruptibleMask((restore) => {
    const all = knownOf(driver)
    // Between the look that led here and now another may have begun.
    if (all.has(topology)) return restore(declareOnce(driver, topology))
    const ended = Deferred.makeUnsafe<void, BrokerError>()
    all.set(topology, ended)
    const declare = Effect.onExit(restore(Effect.suspend(() => driver.declare(topology))), (exit) =>
      Effect.sync(() => {
        if (Exit.isSuccess(exit)) all.set(topology, true)
        else all.delete(topology)
        Deferred.doneUnsafe(ended, Exit.asVoid(exit))
      })
    )
    return Effect.andThen(
      Effect.forkDetach(Effect.exit(declare), { startImmediately: true }),
      restore(Deferred.await(ended))
    )
  })
