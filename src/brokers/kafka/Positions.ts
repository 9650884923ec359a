/** Where the groups of a topic are in its partitions, which is a matter of Kafka alone. */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import type { Broker } from "../../messaging/Broker.ts"
import { named } from "../../messaging/Broker.ts"
import type { BrokerError } from "../../messaging/BrokerError.ts"
import type { Driver, Group } from "../../messaging/Driver.ts"
import { InvalidOption } from "../../pool/WorkerPool.ts"
import type { KafkaDriver } from "./internal/Driver.ts"
import { rejected } from "./internal/errors.ts"

/** How far a group is in one partition. */
export interface PartitionLag {
  /** The topic, or the one of the group's retries. */
  readonly topic: string
  readonly partition: number
  /** Below this offset everything is finished; `undefined` where nothing was committed. */
  readonly committed: number | undefined
  /** The offset that the next message will have. */
  readonly end: number
  /** How many are not finished; what is finished beyond `committed` does not count. */
  readonly lag: number
}

/** A group, and by which broker of the app it is reached. Default: the only one. */
export interface GroupOf<N extends string> extends Group {
  readonly name?: N | undefined
}

const isKafka = (driver: Driver): driver is KafkaDriver => "kafka" in driver

const use = <A, N extends string>(
  { name, topic }: GroupOf<N>,
  operation: string,
  run: (kafka: KafkaDriver["kafka"]) => Effect.Effect<A, BrokerError>
): Effect.Effect<A, BrokerError, Broker<"replay", N>> => {
  // The literal default of `N` stands for the missing name; that the broker is Kafka is seen here, and not in its type.
  const key = named(name ?? ("default" as N)) as unknown as Context.Service<Broker<"replay", N>, Driver>
  return Effect.flatMap(key, (driver) =>
    isKafka(driver)
      ? run(driver.kafka)
      : Effect.fail(
          rejected({ operation, topic }, "Unsupported", "this broker is not Kafka, or stands behind another one")
        )
  )
}

/**
 * How far a group is in each partition, for all members in all processes, by what they have committed.
 *
 * **When to use**
 *
 * Use it to see which partition is behind. `Consumer`'s backlog is the sum over those that a process reads.
 *
 * **Example**
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Kafka } from "millrace/kafka"
 *
 * const behind = Kafka.lag({ topic: "orders.placed", group: "sms" }).pipe(
 *   Effect.map((partitions) => partitions.filter(({ lag }) => lag > 1000))
 * )
 * Effect.isEffect(behind) // => true
 * ```
 */
export const lag = <const N extends string = "default">(
  group: GroupOf<N>
): Effect.Effect<ReadonlyArray<PartitionLag>, BrokerError, Broker<"replay", N>> =>
  use(group, "ask for the lag", ({ lag }) => lag(group))

/**
 * Puts a group to offsets, by partition: a new one, or one whose consumers are stopped. What is behind them is handled, again if
 * it was before; what is below is left out. A partition without an offset stays where it is, of a new group at the end.
 *
 * **When to use**
 *
 * Use it where `replay` of a consumer does not do, which begins a new group at the beginning or at a time.
 *
 * Fails with `Rejected`: `Refused` while the group has members, where there are fewer partitions, or for an offset beyond the
 * end of its partition; `NoGroup` where the topic is missing. An offset that is no whole number from 0 is a defect,
 * `InvalidOption`.
 *
 * **Example** (The last two partitions stay)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Kafka } from "millrace/kafka"
 *
 * const again = Kafka.moveTo({ topic: "orders.placed", group: "audit", offsets: [120, 98] })
 * Effect.isEffect(again) // => true
 * ```
 */
export const moveTo = <const N extends string = "default">(
  options: GroupOf<N> & { readonly offsets: ReadonlyArray<number | undefined> }
): Effect.Effect<void, BrokerError, Broker<"replay", N>> => {
  const { offsets } = options
  const wrong = offsets.find((offset) => offset !== undefined && !(Number.isSafeInteger(offset) && offset >= 0))
  if (wrong !== undefined) {
    const problem = `offsets must be whole numbers from 0, got ${format(wrong)}`
    return Effect.die(new InvalidOption({ operation: "Kafka.moveTo", problem }))
  }
  return use(options, "move a group", ({ moveTo }) => moveTo(options, offsets))
}
