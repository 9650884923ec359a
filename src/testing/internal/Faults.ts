/**
 * Decides by seed what goes wrong with which call, makes it go wrong, and counts it.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import { BrokerError, Unavailable } from "../../messaging/BrokerError.ts"
import type { Counts, Fault, Operation, Options, Rates, RatesByOperation } from "../FaultyBroker.ts"

/** The faults share the numbers from 0 to 1, each as much of them as its rate. */
const kinds: ReadonlyArray<Fault> = ["failBefore", "failAfter", "hangBefore", "hangAfter", "slow", "partial", "lose"]

/** What is about to go wrong, and how it is told. */
interface Doom {
  readonly fault: Fault
  readonly error: BrokerError
}

export interface About {
  readonly topic?: string
  readonly ids?: ReadonlyArray<string>
}

/** Decides what goes wrong, and counts it. */
export class Faults {
  private on = true
  private rates: RatesByOperation
  private readonly counted = new Map<Operation, { calls: number } & Partial<Record<Fault, number>>>()
  private readonly generators = new Map<string, Random.Random>()
  private readonly seed: number | string
  private readonly hangs: Duration.Input | undefined
  private readonly slowness: Duration.Input

  constructor({ hang, rates, seed, slow }: Options) {
    this.rates = rates
    this.seed = seed
    this.hangs = hang
    this.slowness = slow ?? "100 millis"
  }

  turn(on: boolean): void {
    this.on = on
  }

  setRates(rates: RatesByOperation): void {
    this.rates = rates
  }

  counts(): Counts {
    return Object.fromEntries([...this.counted].map(([operation, counts]) => [operation, { ...counts }]))
  }

  /** The next number of a sequence, in [0, 1). */
  private draw(sequence: string): number {
    let generator = this.generators.get(sequence)
    if (generator === undefined) {
      generator = Effect.runSync(Random.withSeed(Random.Random, `${this.seed}/${sequence}`))
      this.generators.set(sequence, generator)
    }
    return generator.nextDoubleUnsafe()
  }

  /** A number for one of the messages of a call, from a sequence of its own: batches do not disturb the fate of later calls. */
  each(operation: Operation): number {
    return this.draw(`${operation}/each`)
  }

  /** What happens to the next call of an operation. */
  decide(system: string, operation: Operation, about: About): Doom | undefined {
    if (!this.on) return
    const counts = this.counted.get(operation) ?? { calls: 0 }
    this.counted.set(operation, counts)
    counts.calls++
    const rates = this.rates[operation] ?? this.rates.all ?? {}
    const fault = faultAt(rates, this.draw(operation))
    if (fault === undefined) return
    counts[fault] = (counts[fault] ?? 0) + 1
    const detail = `FaultyBroker: call ${counts.calls} of ${operation} goes wrong: ${fault} (seed ${this.seed})`
    return {
      fault,
      error: new BrokerError({ broker: system, operation, ...about, reason: new Unavailable({ detail }) })
    }
  }

  hang({ error }: Doom): Effect.Effect<never, BrokerError> {
    return this.hangs === undefined ? Effect.never : Effect.andThen(Effect.sleep(this.hangs), Effect.fail(error))
  }

  /**
   * Runs an operation with what was decided. `after` puts the failure or the hanging behind it, and `partial` does some of it,
   * where these are something special.
   */
  call<A, R>(
    system: string,
    operation: Operation,
    about: About,
    run: Effect.Effect<A, BrokerError, R>,
    special: {
      readonly after?: (end: Effect.Effect<never, BrokerError>) => Effect.Effect<A, BrokerError, R>
      readonly partial?: (error: BrokerError) => Effect.Effect<A, BrokerError, R>
      readonly lose?: Effect.Effect<A, BrokerError, R>
    } = {}
  ): Effect.Effect<A, BrokerError, R> {
    const after = special.after ?? ((end) => Effect.andThen(run, end))
    return Effect.suspend(() => {
      const doom = this.decide(system, operation, about)
      switch (doom?.fault) {
        case undefined:
          return run
        case "failBefore":
          return Effect.fail(doom.error)
        case "failAfter":
          return after(Effect.fail(doom.error))
        case "hangBefore":
          return this.hang(doom)
        case "hangAfter":
          return after(this.hang(doom))
        case "slow":
          return Effect.andThen(Effect.sleep(this.slowness), run)
        case "partial":
          return special.partial?.(doom.error) ?? Effect.fail(doom.error)
        case "lose":
          return special.lose ?? run
      }
    })
  }

  /** The same for a stream, where `partial` is its first element. */
  stream<A>(system: string, operation: Operation, about: About, run: Stream.Stream<A, BrokerError>) {
    return Stream.suspend((): Stream.Stream<A, BrokerError> => {
      const doom = this.decide(system, operation, about)
      switch (doom?.fault) {
        case undefined:
        case "lose":
          return run
        case "failBefore":
          return Stream.fail(doom.error)
        case "failAfter":
          return Stream.concat(run, Stream.fail(doom.error))
        case "hangBefore":
          return Stream.fromEffect(this.hang(doom))
        case "hangAfter":
          return Stream.concat(run, Stream.fromEffect(this.hang(doom)))
        case "slow":
          return Stream.unwrap(Effect.as(Effect.sleep(this.slowness), run))
        case "partial":
          return Stream.concat(Stream.take(run, 1), Stream.fail(doom.error))
      }
    })
  }
}

const faultAt = (rates: Rates, number: number): Fault | undefined => {
  let end = 0
  return kinds.find((kind) => {
    end += rates[kind] ?? 0
    return number < end
  })
}
