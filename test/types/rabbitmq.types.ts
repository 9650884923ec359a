/** What RabbitMQ can and cannot do, as types. */
import { Effect, Layer, Schema } from "effect"
import { type Broker, Consumer, DeadLetters, Topic } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where the value has exactly the type `A`. */
const same =
  <A>() =>
  <B>(_: B & (Equal<A, B> extends true ? unknown : never)): void => {}

const url = "amqp://127.0.0.1"
const Order = Topic.make("orders", { schema: Schema.Struct({ id: Schema.String }), version: 1 })

const quorum = RabbitMq.layer({ url })
const classic = RabbitMq.layer({ url, queueType: "classic" })
const prioritized = RabbitMq.layer({ url, queueType: "classic", priorities: 5 })
const ordered = RabbitMq.layer({ url, order: true })
const orderedGroups = RabbitMq.layer({ url, queueType: "classic", order: ["g"] })
const analytics = RabbitMq.layer({ url, name: "analytics" })

same<Layer.Layer<Broker.Broker<"delay">, Broker.BrokerError>>()(quorum)
same<Layer.Layer<Broker.Broker<"delay">, Broker.BrokerError>>()(classic)
same<Layer.Layer<Broker.Broker<"delay" | "priority">, Broker.BrokerError>>()(prioritized)
same<Layer.Layer<Broker.Broker<"delay" | "order">, Broker.BrokerError>>()(ordered)
same<Layer.Layer<Broker.Broker<"delay" | "order">, Broker.BrokerError>>()(orderedGroups)
same<Layer.Layer<Broker.Broker<"delay", "analytics">, Broker.BrokerError>>()(analytics)

// @ts-expect-error: quorum queues have no priorities
RabbitMq.layer({ url, priorities: 5 })
// @ts-expect-error: quorum queues have no priorities
RabbitMq.layer({ url, queueType: "quorum", priorities: 5 })
// @ts-expect-error: a priority lets a message pass others of its key
RabbitMq.layer({ url, queueType: "classic", priorities: 5, order: true })
// @ts-expect-error: order is asked for, or it is left out
RabbitMq.layer({ url, order: false })
// @ts-expect-error: no such kind of queue
RabbitMq.layer({ url, queueType: "stream" })
// @ts-expect-error: an option that it has not
RabbitMq.layer({ url, prefetch: 10 })

const handle = () => Effect.void
/** Compiles where nothing is missing any more. */
const complete = (_: Layer.Layer<never, Broker.BrokerError>): void => {}
const run = <E>(_: Effect.Effect<unknown, E>): void => {}

complete(Layer.provide(Consumer.layer(Order, handle, { group: "g" }), quorum))
run(Order.publish({ id: "o" }, { delay: "1 hour" }).pipe(Effect.provide(quorum)))
run(Order.publish({ id: "o" }, { priority: 1 }).pipe(Effect.provide(prioritized)))

complete(Layer.provide(Consumer.layer(Order, handle, { group: "g", order: "key" }), ordered))
// @ts-expect-error: no order by key without the option
complete(Layer.provide(Consumer.layer(Order, handle, { group: "g", order: "key" }), quorum))
// @ts-expect-error: no replay
complete(Layer.provide(Consumer.layer(Order, handle, { group: "g", replay: "earliest" }), quorum))
// @ts-expect-error: no priority without the option
run(Order.publish({ id: "o" }, { priority: 1 }).pipe(Effect.provide(classic)))
// @ts-expect-error: dead letters cannot be browsed
run(DeadLetters.purge(Order).pipe(Effect.provide(quorum)))
// @ts-expect-error: another broker's name
complete(Layer.provide(Consumer.layer(Order, handle, { group: "g" }), analytics))
