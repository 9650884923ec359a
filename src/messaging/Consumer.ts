/**
 * A worker pool fed by a broker.
 *
 * **When to use**
 *
 * Use {@link layer} for a consumer that is a part of the app. Use {@link make} where the program has to pause it, ask it how
 * it is, or end it by itself. Use {@link layerBatch} where many messages are cheaper together, such as inserts.
 *
 * **Details**
 *
 * - A message is acknowledged after its handler has succeeded, scope included. A handler that fails says by `onError` what
 *   becomes of the message: tried again, set aside, dropped. Every tag of its error needs a decision, or it does not compile.
 * - Defects, timeouts, undecodable messages and unknown versions are apart from the handler's errors, each with a default.
 * - At least once: a crash after the handler and before the acknowledgement brings the message again. Handlers should
 *   tolerate that; the message's `id` stays the same.
 * - `order: "key"` runs messages of one key one at a time and in order over all members of the group, and different keys in
 *   parallel. A message that is tried again later keeps those of its key behind it waiting.
 * - Closing takes no more, lets running handlers end until `shutdownDeadline`, interrupts, and gives the rest back without
 *   costing them an attempt. The {@link ConsumerReport} is logged: as a warning when something was left abandoned or
 *   unsettled, else at debug level.
 *
 * **Gotchas**
 *
 * - A handler whose message was lost (its lease ran out, a rebalance took it) is interrupted; see {@link isLeaseLost}.
 * - A consumer needs its broker to close: make it in the scope of the broker's layer or in a narrower one, else it finds the
 *   broker gone, and what it held comes again.
 *
 * **Example** (Retry, dead letter)
 *
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Consumer, Topic } from "millrace"
 *
 * class GatewayDown extends Schema.TaggedError<GatewayDown>()("GatewayDown", {}) {}
 * class NumberRejected extends Schema.TaggedError<NumberRejected>()("NumberRejected", {}) {}
 *
 * const OrderPlaced = Topic.make("orders.placed", { schema: Schema.Struct({ phone: Schema.String }), version: 1 })
 *
 * const sendSms = (phone: string): Effect.Effect<void, GatewayDown | NumberRejected> =>
 *   phone === "" ? Effect.fail(new NumberRejected()) : Effect.void
 *
 * const SmsConsumer = Consumer.layer(OrderPlaced, (order) => sendSms(order.phone), {
 *   group: "sms",
 *   concurrency: 16,
 *   order: "key",
 *   onError: {
 *     GatewayDown: Consumer.retry(Consumer.backoff("1 second", "5 minutes")),
 *     NumberRejected: Consumer.deadLetter
 *   }
 * })
 * Layer.isLayer(SmsConsumer) // => true
 * ```
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { Broker } from "./Broker.ts"
import { named } from "./Broker.ts"
import type { BrokerError } from "./BrokerError.ts"
import type { RunningConsumer } from "./ConsumerHealth.ts"
import type { AbilityOptions, BatchOptions, ConsumerOptions } from "./ConsumerOptions.ts"
import type { OnErrorOption, Unset } from "./Decision.ts"
import type { Driver } from "./Driver.ts"
import type { Envelope } from "./Envelope.ts"
import type { Work } from "./internal/Attempts.ts"
import type { HandleBatch } from "./internal/Batches.ts"
import { checkConsumer } from "./internal/ConsumerSettings.ts"
import { run } from "./internal/RunningConsumer.ts"
import type { Decisions } from "./internal/Verdict.ts"
import type { Topic } from "./Topic.ts"

export type { ConsumerHealth, RunningConsumer } from "./ConsumerHealth.ts"
export { ConsumerStopped } from "./ConsumerHealth.ts"
export type { AbilityOptions, BatchOptions, ConsumerOptions } from "./ConsumerOptions.ts"
export type { ConsumerAccounting, ConsumerReport, DeliveryOutcome } from "./ConsumerReport.ts"
export { format as formatReport, isBalanced, isClean } from "./ConsumerReport.ts"
export type { Decide, Decision, OnError, OnErrorOption, Unset } from "./Decision.ts"
export { backoff, deadLetter, delay, drop, retry } from "./Decision.ts"
export { isLeaseLost, LeaseLost, leaseLostOf } from "./LeaseLost.ts"

type Given<T, Need> = [T] extends [undefined] ? never : Need
type Abilities<Order, Replay> = Given<Order, "order"> | Given<Replay, "replay">

/** A message of a batch. */
export interface BatchMessage<out A> {
  readonly value: A
  readonly message: Envelope
}

/** The parts of any consumer; the signatures of the exports have checked that the types fit. */
const open = (
  topic: Topic<never, string, unknown>,
  options: ConsumerOptions & AbilityOptions<unknown, unknown> & Partial<BatchOptions>,
  handle: Work["handle"] | undefined,
  handleBatch: HandleBatch | undefined
): Effect.Effect<RunningConsumer, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const settings = yield* checkConsumer(options, handleBatch !== undefined)
    // Required by the signatures; the key of a name holds the driver, whatever it can.
    const driver = yield* named(topic.broker) as unknown as Effect.Effect<Driver>
    // With all its groups, so that none misses what is published before its own consumer starts.
    yield* topic.declare as unknown as Effect.Effect<void, BrokerError>
    const work: Work = {
      topic: topic.name,
      group: settings.group,
      decode: topic.decode as unknown as Work["decode"],
      handle: handle ?? (() => Effect.void)
    }
    const decisions = options as Decisions
    return yield* run({ driver, settings, decisions, work, handleBatch, onShutdown: options.onShutdown })
  })

/**
 * Starts a consumer that closes with the scope.
 *
 * Fails with `BrokerError` when the broker cannot be reached or refuses the subscription; later troubles of the broker are
 * retried, logged once, and seen in `health`. A wrong option is a defect, `InvalidOption`.
 */
export const make = <
  A,
  B extends string,
  TR,
  R,
  E = Unset,
  Order extends "key" | undefined = undefined,
  Replay extends "earliest" | Date | undefined = undefined
>(
  topic: Topic<A, B, TR>,
  handler: (value: A, message: Envelope) => Effect.Effect<unknown, E, R>,
  options: ConsumerOptions & AbilityOptions<Order, Replay> & NoInfer<OnErrorOption<E>>
): Effect.Effect<
  RunningConsumer,
  BrokerError,
  TR | Exclude<R, Scope.Scope> | Broker<Abilities<Order, Replay>, B> | Scope.Scope
> => open(topic as unknown as Topic<never, string, unknown>, options, handler as Work["handle"], undefined)

/** The same as a layer: it consumes as long as the layer is open. */
export const layer = <
  A,
  B extends string,
  TR,
  R,
  E = Unset,
  Order extends "key" | undefined = undefined,
  Replay extends "earliest" | Date | undefined = undefined
>(
  topic: Topic<A, B, TR>,
  handler: (value: A, message: Envelope) => Effect.Effect<unknown, E, R>,
  options: ConsumerOptions & AbilityOptions<Order, Replay> & NoInfer<OnErrorOption<E>>
): Layer.Layer<never, BrokerError, TR | Exclude<R, Scope.Scope> | Broker<Abilities<Order, Replay>, B>> =>
  // The scope is the layer's own.
  Layer.effectDiscard(make(topic, handler, options)) as Layer.Layer<
    never,
    BrokerError,
    TR | Exclude<R, Scope.Scope> | Broker<Abilities<Order, Replay>, B>
  >

/**
 * Starts a consumer that handles messages many at a time.
 *
 * A batch runs when it has `size` messages, or when its first has waited for `linger`. The handler's failure is that of every
 * message in it; a list of results says for each how it went, in order. Batches have no order by key. A lost lease does not
 * interrupt the others of its batch: the handler is interrupted when none of them is left.
 */
export const makeBatch = <
  A,
  B extends string,
  TR,
  R,
  E = Unset,
  EM = never,
  Replay extends "earliest" | Date | undefined = undefined
>(
  topic: Topic<A, B, TR>,
  handler: (
    batch: NonEmptyReadonlyArray<BatchMessage<A>>
  ) => Effect.Effect<void | ReadonlyArray<Result.Result<unknown, EM>>, E, R>,
  options: ConsumerOptions & BatchOptions & { readonly replay?: Replay } & NoInfer<OnErrorOption<E | EM>>
): Effect.Effect<
  RunningConsumer,
  BrokerError,
  TR | Exclude<R, Scope.Scope> | Broker<Abilities<undefined, Replay>, B> | Scope.Scope
> => open(topic as unknown as Topic<never, string, unknown>, options, undefined, handler as unknown as HandleBatch)

/** The same as a layer. */
export const layerBatch = <
  A,
  B extends string,
  TR,
  R,
  E = Unset,
  EM = never,
  Replay extends "earliest" | Date | undefined = undefined
>(
  topic: Topic<A, B, TR>,
  handler: (
    batch: NonEmptyReadonlyArray<BatchMessage<A>>
  ) => Effect.Effect<void | ReadonlyArray<Result.Result<unknown, EM>>, E, R>,
  options: ConsumerOptions & BatchOptions & { readonly replay?: Replay } & NoInfer<OnErrorOption<E | EM>>
): Layer.Layer<never, BrokerError, TR | Exclude<R, Scope.Scope> | Broker<Abilities<undefined, Replay>, B>> =>
  // The scope is the layer's own.
  Layer.effectDiscard(makeBatch(topic, handler, options)) as Layer.Layer<
    never,
    BrokerError,
    TR | Exclude<R, Scope.Scope> | Broker<Abilities<undefined, Replay>, B>
  >
