/**
 * Apache Kafka as the broker, through the client `@platformatic/kafka` (`npm install @platformatic/kafka`).
 *
 * **When to use**
 *
 * Use it where services of several machines, also in other languages, share streams of messages on a Kafka cluster of version
 * 4.0 or newer, and new consumers read what was published before them.
 *
 * **Details**
 *
 * - A topic is a topic, a group a consumer group; retries and dead letters of a group have a topic each. They must be there,
 *   or are made with `createTopics`. `docs/brokers/kafka.md` has the names, the wire format and what survives what.
 * - Publishing returns when all in-sync replicas have the message, and each is written once however often its request is
 *   repeated. The key decides the partition as it does for the Java clients.
 * - Any number of handlers run for one partition at once. With `order: "key"` those of a key run one after the other, and the
 *   others go on. Only what is finished without a gap is committed; what is finished beyond that is noted beside it.
 * - When members come and go, each gives its partitions up after their handlers have ended, within `revokeTimeout`.
 *
 * **Gotchas**
 *
 * - Kafka keeps one position for a partition. A message that is never finished holds the position back; at `maxUncommitted`
 *   its partition waits for it.
 * - There are no delays and no priorities: `delay` and `priority` do not compile.
 * - A consumer that dies is missed after the group's session timeout, 45 seconds unless the servers say otherwise.
 *
 * **Example** (A broker that makes its topics)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Kafka } from "millrace/kafka"
 *
 * const broker = Kafka.layer({ brokers: ["127.0.0.1:9092"], createTopics: { partitions: 12, replication: 3 } })
 * Layer.isLayer(broker) // => true
 * ```
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Broker } from "../../messaging/Broker.ts"
import { named } from "../../messaging/Broker.ts"
import type { BrokerError } from "../../messaging/BrokerError.ts"
import type { Driver } from "../../messaging/Driver.ts"
import { open } from "./internal/Driver.ts"
import { check } from "./internal/Settings.ts"
import type { Options } from "./Options.ts"

export type { Options, SaslOptions, TlsOptions } from "./Options.ts"
export type { GroupOf, PartitionLag } from "./Positions.ts"
export { lag, moveTo } from "./Positions.ts"

/** What the layer provides. */
export type Abilities = "order" | "replay" | "browse"

/**
 * A Kafka cluster as the broker. Fails with `Unavailable` where no server can be reached, with `Rejected` where they refuse
 * the user; from then on connections are opened again by themselves. A wrong option is a defect, `InvalidOption`.
 */
export const layer = <const N extends string = "default">(
  options: Options<N>
): Layer.Layer<Broker<Abilities, N>, BrokerError> => {
  // The literal default of `N` stands for the missing name; and it is here that a driver says what it can.
  const name = options.name ?? ("default" as N)
  const key = named(name) as unknown as Context.Service<Broker<Abilities, N>, Driver>
  return Layer.effect(
    key,
    Effect.flatMap(check(options), (settings) => open(settings, name))
  )
}
