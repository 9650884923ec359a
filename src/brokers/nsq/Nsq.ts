/**
 * NSQ as the broker, with a client of its own: no package is needed beside this one.
 *
 * **When to use**
 *
 * Use it where a light broker is enough: messages are spread over servers that know nothing of each other. Versions 1.2 and
 * newer are fine.
 *
 * **Details**
 *
 * - A topic is a topic, a group its channel. Retries and dead letters are in topics of the group's own.
 *   `docs/brokers/nsq.md` has the names, the bytes and what survives what.
 * - Publishing returns when an nsqd has the message: on its disk if it runs with `-mem-queue-size=0`, else possibly in its
 *   memory alone; the layer warns where it can see that.
 * - A retried message is finished when its copy is confirmed.
 * - Connections are opened again by themselves, and so is consumption, within seconds after a server is back.
 *
 * **Gotchas**
 *
 * - NSQ does not confirm that a message is finished: one whose FIN is lost with its connection comes again.
 * - What waits for its time is in the memory of an nsqd, whatever its settings: killed, it forgets delayed messages and
 *   retries. Stopped in good order it keeps them.
 * - It keeps no order, no messages for groups to come, has no priorities and cannot show its dead letters: `order`, `replay`,
 *   `priority` and `browse` do not compile. {@link DeadLetters.emulate} keeps letters in a store beside it.
 *
 * **Example** (Servers found by nsqlookupd)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Nsq } from "millrace/nsq"
 *
 * const broker = Nsq.layer({ lookupd: ["http://127.0.0.1:4161"] })
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

export type { Address, Options } from "./Options.ts"

/** What the layer provides. */
export type Abilities = "delay"

/**
 * Servers of NSQ as the broker. Fails with `Unavailable` where none can be reached, with `Rejected` where they refuse; from then
 * on connections are opened again by themselves. A wrong option is a defect, `InvalidOption`.
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
