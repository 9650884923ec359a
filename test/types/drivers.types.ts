/** What the layers of drivers say that a broker can, and that nothing is had which they do not say. */
import { Effect, Layer, Schema, Stream } from "effect"
import { type Broker, Consumer, DeadLetters, Topic } from "millrace"
import { Memory } from "millrace/memory"
import type { Fixture } from "millrace/testing"
import { brokerConformance, conformanceWorker, FaultyBroker } from "millrace/testing"

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where the value has exactly the type `A`. */
const same =
  <A>() =>
  <B>(_: B & (Equal<A, B> extends true ? unknown : never)): void => {}

type All = "delay" | "priority" | "order" | "replay" | "browse"
same<Layer.Layer<Broker.Broker<All>>>()(Memory.layer())
same<Layer.Layer<Broker.Broker<All, "analytics">>>()(Memory.layer({ name: "analytics" }))
// @ts-expect-error: no results
export const results: Layer.Layer<Broker.Broker<"results">> = Memory.layer()
// @ts-expect-error: a misspelt option
Memory.layer({ dedup: "1 minute" })

// Faults change nothing in what a layer says.
same<Layer.Layer<Broker.Broker<All, "analytics">>>()(
  FaultyBroker.make({ seed: 1, rates: {} }).layer(Memory.layer({ name: "analytics" }))
)
// @ts-expect-error: an operation that there is not
FaultyBroker.make({ seed: 1, rates: { publsh: { failAfter: 1 } } })

const T = Topic.make("t", { schema: Schema.String, version: 1 })
const nothing = () => Effect.void

/** A layer of a broker that can all but one thing. */
declare const without: <Lacks extends All>() => Layer.Layer<Broker.Broker<Exclude<All, Lacks>>>
/** Compiles only where nothing is missing. */
const complete = <A, E>(_: Effect.Effect<A, E>): void => {}
const whole = <E>(_: Layer.Layer<never, E>): void => {}

const delayed = T.publish("x", { delay: "1 minute" })
complete(delayed.pipe(Effect.provide(without<"priority">())))
// @ts-expect-error: no delay
complete(delayed.pipe(Effect.provide(without<"delay">())))

const prioritized = T.publish("x", { priority: 1 })
complete(prioritized.pipe(Effect.provide(without<"delay">())))
// @ts-expect-error: no priority
complete(prioritized.pipe(Effect.provide(without<"priority">())))

const ordered = Consumer.layer(T, nothing, { group: "g", order: "key" })
whole(ordered.pipe(Layer.provide(without<"replay">())))
// @ts-expect-error: no order
whole(ordered.pipe(Layer.provide(without<"order">())))

const replaying = Consumer.layer(T, nothing, { group: "g", replay: "earliest" })
whole(replaying.pipe(Layer.provide(without<"order">())))
// @ts-expect-error: no replay
whole(replaying.pipe(Layer.provide(without<"replay">())))

const listed = Stream.runCollect(DeadLetters.list(T))
complete(listed.pipe(Effect.provide(without<"order">())))
// @ts-expect-error: no browse
complete(listed.pipe(Effect.provide(without<"browse">())))

// The suite takes any driver, and a worker too.
declare const bare: Layer.Layer<Broker.Broker, Broker.BrokerError>
const abilities: Fixture["abilities"] = {
  delay: "none",
  priority: "none",
  order: "none",
  replay: "none",
  browse: "none",
  results: "none"
}
brokerConformance({ layer: bare, abilities, lease: "none" })
brokerConformance({ layer: Memory.layer(), abilities, lease: 1000 })
conformanceWorker(Memory.layer())
// @ts-expect-error: every ability has an answer
brokerConformance({ layer: bare, abilities: { delay: "none" }, lease: "none" })
