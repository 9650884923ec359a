/**
 * A broker whose operations go wrong, by seed: they fail before they happen, fail after they have happened, hang, or are slow.
 *
 * **When to use**
 *
 * Use it around the layer of any driver to see what a program makes of a bad day. The most instructive fault is `failAfter`:
 * the broker has done it, and the answer says that it could not be reached. Programs that publish again without a fixed id,
 * or count what they have published, show it here.
 *
 * **Details**
 *
 * - Each operation draws from a sequence of its own, made from the seed: the n-th `publish` has the same fate in each run,
 *   whatever happens to the others.
 * - Failures are `Unavailable`, and their text names the seed and the call.
 * - A `take` that failed after it had happened gives back what it was handed, as a driver must.
 * - {@link FaultyBroker.counts} says what was done; a test that expects faults should check that there were some.
 *
 * **Gotchas**
 *
 * Concurrent calls take their numbers in the order in which they come, which may differ from run to run.
 *
 * **Example** (Failing after it has happened)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Topic } from "millrace"
 * import { Memory } from "millrace/memory"
 * import { FaultyBroker } from "millrace/testing"
 *
 * const Order = Topic.make("orders", { schema: Schema.String, version: 1 })
 *
 * const faulty = FaultyBroker.make({ seed: 1, rates: { publish: { failAfter: 1 } } })
 * const program = Effect.flip(Order.publish("o-1")).pipe(Effect.provide(faulty.layer(Memory.layer())))
 *
 * const error = await Effect.runPromise(program)
 * error._tag === "BrokerError" && error.reason._tag // => "Unavailable"
 * const counts = await Effect.runPromise(faulty.counts)
 * counts.publish // => { calls: 1, failAfter: 1 }
 * ```
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Layer from "effect/Layer"
import { named } from "../messaging/Broker.ts"
import type { Driver } from "../messaging/Driver.ts"
import { InvalidOption } from "../pool/PoolError.ts"
import { Faults } from "./internal/Faults.ts"
import { faultyDriver } from "./internal/faultyDriver.ts"

/** What can go wrong; the operations of the dead letters are named after what they do. */
export type Operation =
  | "declare"
  | "publish"
  | "subscribe"
  | "take"
  | "settle"
  | "renew"
  | "setCredit"
  | "backlog"
  | "groups"
  | "removeGroup"
  | "readLetters"
  | "removeLetters"
  | "moveLetter"
  | "letterGroups"

/** How it goes wrong. */
export type Fault =
  /** It does not happen, and fails. */
  | "failBefore"
  /** It happens, and fails. */
  | "failAfter"
  /** It does not happen, and nothing comes back. */
  | "hangBefore"
  /** It happens, and nothing comes back. */
  | "hangAfter"
  /** It happens, later. */
  | "slow"
  /**
   * Some of it happens. Of what `publish` sends, each message is confirmed, or fails before or after it was sent; `settle` and
   * `renew` do their work for some and fail; `readLetters` fails after the first. For the others the same as `failBefore`.
   */
  | "partial"
  /** `renew` only: the broker takes some of the deliveries back. For the others nothing. */
  | "lose"

/** The share of calls that go wrong in each way, from 0 to 1; together at most 1. */
export type Rates = Readonly<Partial<Record<Fault, number>>>

/** Rates by operation; `all` is for those that are not named. */
export type RatesByOperation = Readonly<Partial<Record<Operation | "all", Rates>>>

/** How often each operation was called while faults were on, and what was done to it. */
export type Counts = Readonly<Partial<Record<Operation, { readonly calls: number } & Rates>>>

export interface Options {
  readonly seed: number | string
  readonly rates: RatesByOperation
  /** After this time a call that hangs fails. Default: never, so that only an interruption ends it. */
  readonly hang?: Duration.Input | undefined
  /** How long a slow call waits. Default 100 milliseconds. */
  readonly slow?: Duration.Input | undefined
}

/** Faults that can be put around brokers, and changed while they run. */
export interface FaultyBroker {
  /** The same layer, with faults in each broker that it provides. */
  readonly layer: <A, E, R>(broker: Layer.Layer<A, E, R>) => Layer.Layer<A, E, R>
  /** Faults happen. This is how it begins. */
  readonly enable: Effect.Effect<void>
  /** From now on all goes well. What hangs goes on hanging. */
  readonly disable: Effect.Effect<void>
  /** Other rates from now on. */
  readonly setRates: (rates: RatesByOperation) => Effect.Effect<void>
  readonly counts: Effect.Effect<Counts>
}

/**
 * Faults by this seed and at these rates. A rate below 0, or rates that are more than 1 together, are a defect
 * (`InvalidOption`) of the layer, and of `setRates`.
 */
export const make = (options: Options): FaultyBroker => {
  const faults = new Faults(options)
  return {
    layer: (broker) =>
      Layer.unwrap(
        Effect.as(
          checkRates("FaultyBroker.make", options.rates),
          Layer.flatMap(broker, (context) => Layer.succeedContext(wrapAll(context, faults)))
        )
      ),
    enable: Effect.sync(() => faults.turn(true)),
    disable: Effect.sync(() => faults.turn(false)),
    setRates: (rates) =>
      Effect.andThen(
        checkRates("FaultyBroker.setRates", rates),
        Effect.sync(() => faults.setRates(rates))
      ),
    counts: Effect.sync(() => faults.counts())
  }
}

const checkRates = (operation: string, rates: RatesByOperation): Effect.Effect<void> =>
  Effect.forEach(
    Object.entries(rates),
    ([name, faults]) => {
      const numbers = Object.values(faults)
      const sum = numbers.reduce((sum, rate) => sum + rate, 0)
      // So written, NaN is wrong as well. What floating point adds to ten times 0.1 is not.
      const isRight = numbers.every((rate) => rate >= 0) && sum <= 1 + 1e-9
      return isRight
        ? Effect.void
        : Effect.die(
            new InvalidOption({
              operation,
              problem: `the rates of ${name} must be from 0 to 1 and at most 1 together, got ${format(faults)}`
            })
          )
    },
    { discard: true }
  )

const brokerPrefix = named("").key

const wrapAll = <A>(context: Context.Context<A>, faults: Faults): Context.Context<A> =>
  Context.makeUnsafe(
    new Map(
      [...context.mapUnsafe].map(([key, service]) => [
        key,
        // Under the keys of brokers there are drivers.
        key.startsWith(brokerPrefix) ? faultyDriver(service as Driver, faults) : service
      ])
    )
  )
