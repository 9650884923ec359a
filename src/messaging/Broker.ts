/**
 * The broker as a requirement: one service, whose type names what is asked of it.
 *
 * A topic or a consumer requires `Broker<what it uses>`; the layer of a driver provides `Broker<what it can>`. What a broker
 * cannot do therefore does not compile, at the place where the app is composed.
 *
 * **When to use**
 *
 * Use {@link named} for a second broker in one app: `broker: "analytics"` on its topics, `name: "analytics"` on its layer.
 *
 * **Gotchas**
 *
 * Two layers merged under one name look to the compiler like one broker that can do what both can. Each driver checks what is
 * asked of it at run time too, and answers with `Rejected`.
 */
import * as Context from "effect/Context"
import type * as Types from "effect/Types"
import type { Driver } from "./Driver.ts"

export type { About } from "./BrokerError.ts"
export { BrokerError, errorsOf, Rejected, Unavailable } from "./BrokerError.ts"

/**
 * What a broker may or may not be able to do. Each is named after the option that asks for it.
 *
 * - `delay`: a message that arrives later · `priority`: one that arrives before others · `order`: messages of one key never
 *   run at the same time in two processes · `replay`: a new group reads what was published before it existed · `browse`:
 *   dead letters can be listed, replayed and purged · `results`: a caller can wait for the outcome
 */
export type Ability = "delay" | "priority" | "order" | "replay" | "browse" | "results"

/**
 * In a requirement: a broker that can `Can`. From a driver's layer: a broker that can all of `Can`. Since `Can` is covariant,
 * a layer of `Broker<"delay" | "replay">` provides `Broker<"delay">` and `Broker` too.
 */
export interface Broker<out Can extends Ability = never, out Name extends string = "default"> {
  readonly "~millrace/Broker": { readonly can: Types.Covariant<Can>; readonly name: Types.Covariant<Name> }
}

/** The key of the broker with this name; every driver of the name is the same service. */
export const named = <const Name extends string>(name: Name): Context.Service<Broker<never, Name>, Driver> =>
  Context.Service<Broker<never, Name>, Driver>(`millrace/Broker/${name}`)

/** The key of the broker of the app. */
export const Broker: Context.Service<Broker, Driver> = named("default")
