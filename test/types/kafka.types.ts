/** What Kafka can and cannot do, as types. */
import { Effect, Layer, Schema } from "effect"
import { type Broker, Consumer, DeadLetters, Topic } from "millrace"
import { Kafka } from "millrace/kafka"

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where the value has exactly the type `A`. */
const same =
  <A>() =>
  <B>(_: B & (Equal<A, B> extends true ? unknown : never)): void => {}

const brokers = ["127.0.0.1:9092"]
const Order = Topic.make("orders", { schema: Schema.Struct({ id: Schema.String }), version: 1 })

const kafka = Kafka.layer({ brokers, createTopics: { partitions: 4, replication: 1 } })
const analytics = Kafka.layer({ brokers, name: "analytics" })

same<Layer.Layer<Broker.Broker<"order" | "replay" | "browse">, Broker.BrokerError>>()(kafka)
same<Layer.Layer<Broker.Broker<"order" | "replay" | "browse", "analytics">, Broker.BrokerError>>()(analytics)

// @ts-expect-error: topics are made with both numbers, or not at all
Kafka.layer({ brokers, createTopics: { partitions: 4 } })
// @ts-expect-error: no such compression
Kafka.layer({ brokers, compression: "brotli" })
// @ts-expect-error: a password is needed
Kafka.layer({ brokers, sasl: { mechanism: "PLAIN", username: "u" } })
// @ts-expect-error: an option that it has not
Kafka.layer({ brokers, groupProtocol: "classic" })

const handle = () => Effect.void
/** Compiles where nothing is missing any more. */
const complete = (_: Layer.Layer<never, Broker.BrokerError>): void => {}
const run = <E>(_: Effect.Effect<unknown, E>): void => {}

complete(Layer.provide(Consumer.layer(Order, handle, { group: "g", order: "key", replay: "earliest" }), kafka))
run(Order.publish({ id: "o" }).pipe(Effect.provide(kafka)))
run(DeadLetters.purge(Order).pipe(Effect.provide(kafka)))

// @ts-expect-error: no delay
run(Order.publish({ id: "o" }, { delay: "1 hour" }).pipe(Effect.provide(kafka)))
// @ts-expect-error: no priority
run(Order.publish({ id: "o" }, { priority: 1 }).pipe(Effect.provide(kafka)))
// @ts-expect-error: another broker's name
complete(Layer.provide(Consumer.layer(Order, handle, { group: "g" }), analytics))
