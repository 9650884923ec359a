/**
 * RabbitMQ as the broker, through amqplib (`npm install amqplib`).
 *
 * **When to use**
 *
 * Use it where services of several machines, also in other languages, exchange messages through a RabbitMQ server of version
 * 3.10 or newer.
 *
 * **Details**
 *
 * - A topic is an exchange, a group a durable queue; both are declared on first use, and checked. `docs/brokers/rabbitmq.md`
 *   has the names, the wire format and what survives what.
 * - Publishing returns when the server has confirmed the message. A message that no group would keep is `Rejected` with
 *   `NoGroup`: name the topic's `groups` where it is made, or start a consumer first.
 * - Retries and delays wait in queues at the server. A retried message is acknowledged when its copy is confirmed.
 * - Connections are opened again by themselves, and so is consumption, within seconds after the server is back.
 *
 * **Gotchas**
 *
 * - RabbitMQ does not confirm acknowledgements: a message whose acknowledgement is lost with its connection comes again.
 * - It keeps no messages for groups to come, and cannot show its dead letters: `replay` and `browse` do not compile.
 *   {@link DeadLetters.emulate} keeps letters in a store beside it.
 * - Order by key has a price and is asked for: with the option `order`, one process of a group receives at a time, retries wait
 *   in it, and a restart counts their attempts anew.
 *
 * **Example** (A broker with five priorities)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { RabbitMq } from "millrace/rabbitmq"
 *
 * const broker = RabbitMq.layer({ url: "amqp://guest:guest@127.0.0.1:5672", queueType: "classic", priorities: 5 })
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
import type { Options, Order } from "./Options.ts"

export type { Options, Order, SocketOptions, Url } from "./Options.ts"

/** What the layer provides; priorities and order only where they are asked for. */
export type Abilities<P extends number | undefined, O extends Order | undefined = undefined> =
  | "delay"
  | ([P] extends [number] ? "priority" : never)
  | ([O] extends [Order] ? "order" : never)

/**
 * A RabbitMQ server as the broker. Fails with `Unavailable` where it cannot be reached, with `Rejected` where it refuses the
 * user; from then on connections are opened again by themselves. A wrong option is a defect, `InvalidOption`.
 */
export const layer = <
  const N extends string = "default",
  P extends number | undefined = undefined,
  const O extends Order | undefined = undefined
>(
  options: Options<N, P, O>
): Layer.Layer<Broker<Abilities<P, O>, N>, BrokerError> => {
  // The literal default of `N` stands for the missing name; and it is here that a driver says what it can.
  const name = options.name ?? ("default" as N)
  const key = named(name) as unknown as Context.Service<Broker<Abilities<P, O>, N>, Driver>
  return Layer.effect(
    key,
    Effect.flatMap(check(options), (settings) => open(settings, name))
  )
}
