/** What must compile in messaging with exactly these types, and what must not compile. */
import { type Cause, Context, Effect, Layer, Result, Schedule, Schema, type Scope, type Stream } from "effect"
import { type Broker, Consumer, DeadLetters, Topic } from "millrace"
import { Memory } from "millrace/memory"

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where the value has exactly the type `A`. */
const same =
  <A>() =>
  <B>(_: B & (Equal<A, B> extends true ? unknown : never)): void => {}

class GatewayDown extends Schema.TaggedError<GatewayDown>()("GatewayDown", { after: Schema.Number }) {}
class NumberRejected extends Schema.TaggedError<NumberRejected>()("NumberRejected", {}) {}
class Stale extends Schema.TaggedError<Stale>()("Stale", {}) {}
class Sms extends Context.Service<Sms, { readonly send: Effect.Effect<void, GatewayDown | NumberRejected> }>()("Sms") {}

interface Order {
  readonly orderId: string
  readonly total: number
}
const V1 = Schema.Struct({ orderId: Schema.String })
const OrderPlaced = Topic.make("orders.placed", {
  schema: Schema.Struct({ orderId: Schema.String, total: Schema.Number }),
  version: 2,
  key: (order) => order.orderId,
  upcast: { 1: Topic.upcast(V1, (old) => ({ ...old, total: 0 })) }
})
const Clicks = Topic.make("clicks", {
  schema: Schema.Struct({ url: Schema.String }),
  version: 1,
  broker: "analytics"
})
declare const sendSms: (order: Order) => Effect.Effect<void, GatewayDown | NumberRejected, Sms | Scope.Scope>

// ---------------------------------------------------------------------------------------------------------------------
// Topics
// ---------------------------------------------------------------------------------------------------------------------

same<Topic.Topic<Order>>()(OrderPlaced)
same<Topic.Topic<{ readonly url: string }, "analytics">>()(Clicks)
type PublishError = Broker.BrokerError | Topic.EncodeError
const order = { orderId: "o", total: 1 }
same<Effect.Effect<Topic.Receipt, PublishError, Broker.Broker>>()(OrderPlaced.publish(order))
same<Effect.Effect<Topic.Receipt, PublishError, Broker.Broker<"delay">>>()(
  OrderPlaced.publish(order, { delay: "1 hour" })
)
same<Effect.Effect<Topic.Receipt, PublishError, Broker.Broker<"priority">>>()(
  OrderPlaced.publish(order, { priority: 1 })
)
same<Effect.Effect<Topic.Receipt, PublishError, Broker.Broker<never, "analytics">>>()(Clicks.publish({ url: "" }))
same<Effect.Effect<ReadonlyArray<Topic.Receipt>, PublishError | Topic.PublishIncomplete, Broker.Broker>>()(
  OrderPlaced.publishAll([order])
)
const payload: Topic.Payload<typeof OrderPlaced> = order
same<Order>()(payload)
// @ts-expect-error: wrong payload
OrderPlaced.publish({ orderId: "o" })
// @ts-expect-error: unknown option
OrderPlaced.publish(order, { dealy: "1 hour" })
Topic.make("x", {
  schema: Schema.Struct({ a: Schema.String }),
  version: 2,
  // @ts-expect-error: the upcast does not reach the current type
  upcast: { 1: Topic.upcast(V1, (old) => ({ b: old.orderId })) }
})

// ---------------------------------------------------------------------------------------------------------------------
// Consumers
// ---------------------------------------------------------------------------------------------------------------------

const ordered = Consumer.layer(OrderPlaced, (order) => sendSms(order), {
  group: "sms",
  order: "key",
  onError: { GatewayDown: (error) => Consumer.delay(error.after), NumberRejected: Consumer.deadLetter }
})
same<Layer.Layer<never, Broker.BrokerError, Sms | Broker.Broker<"order">>>()(ordered)
same<Layer.Layer<never, Broker.BrokerError, Broker.Broker>>()(
  Consumer.layer(OrderPlaced, () => Effect.void, { group: "sms" })
)
same<Effect.Effect<Consumer.RunningConsumer, Broker.BrokerError, Broker.Broker<"replay"> | Scope.Scope>>()(
  Consumer.make(OrderPlaced, () => Effect.void, { group: "sms", replay: "earliest" })
)
same<Layer.Layer<never, Broker.BrokerError, Sms | Broker.Broker>>()(
  Consumer.layer(
    OrderPlaced,
    Effect.fn("handler")(function* (order) {
      const sms = yield* Sms
      if (order.total > 1) return yield* new Stale()
      yield* sms.send
    }),
    {
      group: "g",
      onError: {
        GatewayDown: Consumer.retry(Schedule.exponential("1 second")),
        NumberRejected: Consumer.deadLetter,
        Stale: Consumer.drop("stale")
      }
    }
  )
)
// Errors without tags need a function.
Consumer.layer(OrderPlaced, () => Effect.fail("text"), {
  group: "g",
  onError: (text) => (text.length > 1 ? Consumer.deadLetter : Consumer.drop("short"))
})
Consumer.layer(OrderPlaced, sendSms, {
  group: "g",
  // @ts-expect-error: a missing tag
  onError: { GatewayDown: Consumer.deadLetter }
})
Consumer.layer(OrderPlaced, sendSms, {
  group: "g",
  // @ts-expect-error: an unknown tag
  onError: { GatewayDown: Consumer.deadLetter, NumberRejected: Consumer.deadLetter, Nope: Consumer.drop("x") }
})
// @ts-expect-error: no onError at all
Consumer.layer(OrderPlaced, sendSms, { group: "g" })
Consumer.layer(OrderPlaced, () => Effect.void, {
  group: "g",
  // @ts-expect-error: onError where nothing can fail
  onError: { A: Consumer.deadLetter }
})
Consumer.layer(OrderPlaced, () => Effect.fail("text"), {
  group: "g",
  // @ts-expect-error: a record for errors without tags
  onError: { A: Consumer.deadLetter }
})
Consumer.layer(OrderPlaced, () => Effect.void, {
  group: "g",
  // @ts-expect-error: a misspelt option
  concurency: 3
})

// Batches: the errors of messages and those of the batch together.
Consumer.layerBatch(
  OrderPlaced,
  (batch) =>
    batch.length > 100
      ? Effect.fail(new GatewayDown({ after: 1 }))
      : Effect.succeed(batch.map(({ value }) => (value.total > 1 ? Result.succeed(1) : Result.fail(new Stale())))),
  {
    group: "b",
    size: 100,
    linger: "1 second",
    onError: { GatewayDown: (error) => Consumer.delay(error.after), Stale: Consumer.drop("stale") }
  }
)
Consumer.layerBatch(OrderPlaced, () => Effect.void, { group: "b", size: 100, linger: "1 second" })
// @ts-expect-error: an error of messages without a decision
Consumer.layerBatch(OrderPlaced, (batch) => Effect.succeed(batch.map(() => Result.fail(new Stale()))), {
  group: "b",
  size: 100,
  linger: "1 second"
})
Consumer.layerBatch(OrderPlaced, () => Effect.void, {
  group: "b",
  size: 1,
  linger: 0,
  // @ts-expect-error: batches have no order by key
  order: "key"
})

// What is neither an error of the handler nor a defect.
Consumer.layer(OrderPlaced, () => Effect.void, {
  group: "g",
  onDefect: (cause: Cause.Cause<never>) => (cause.reasons.length > 1 ? Consumer.deadLetter : Consumer.drop("a bug"))
})

// ---------------------------------------------------------------------------------------------------------------------
// Abilities
// ---------------------------------------------------------------------------------------------------------------------

declare const bare: Layer.Layer<Broker.Broker, Broker.BrokerError>
declare const orderly: Layer.Layer<Broker.Broker<"order">, Broker.BrokerError>
declare const analytics: Layer.Layer<Broker.Broker<"delay", "analytics">>
declare const sms: Layer.Layer<Sms>

export const ok: Layer.Layer<never, Broker.BrokerError> = ordered.pipe(Layer.provide([orderly, sms]))
export const alsoOk: Layer.Layer<never, Broker.BrokerError> = ordered.pipe(Layer.provide([Memory.layer(), sms]))
// @ts-expect-error: this broker has no order
export const noOrder: Layer.Layer<never, Broker.BrokerError> = ordered.pipe(Layer.provide([bare, sms]))
const later = OrderPlaced.publish(order, { delay: "1 hour" })
Effect.runPromise(later.pipe(Effect.provide(Memory.layer())))
// @ts-expect-error: this broker cannot delay
Effect.runPromise(later.pipe(Effect.provide(orderly)))
// @ts-expect-error: the other broker can delay, this one is not it
Effect.runPromise(later.pipe(Effect.provide([bare, analytics])))
const widened: Topic.PublishOptions & { delay?: "1 hour" } = {}
// @ts-expect-error: an option that may be there asks too
Effect.runPromise(OrderPlaced.publish(order, widened).pipe(Effect.provide(bare)))
// What a broker can may be hidden, not invented.
export const hidden: Layer.Layer<Broker.Broker> = Memory.layer()
// @ts-expect-error: invented
export const invented: Layer.Layer<Broker.Broker<"delay">, Broker.BrokerError> = bare

// ---------------------------------------------------------------------------------------------------------------------
// Dead letters
// ---------------------------------------------------------------------------------------------------------------------

same<Stream.Stream<DeadLetters.DeadLetter<Order>, Broker.BrokerError, Broker.Broker<"browse">>>()(
  DeadLetters.list(OrderPlaced, { where: ({ value }) => Result.isSuccess(value) && value.success.total > 10 })
)
// @ts-expect-error: this broker cannot browse
Effect.runPromise(DeadLetters.replay(OrderPlaced).pipe(Effect.provide(bare)))
