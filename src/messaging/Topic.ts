/**
 * A named, versioned kind of message: what it is made of, how it is keyed, and how it is published.
 *
 * **When to use**
 *
 * Use a topic for work that must survive the process, or that another process does. Declare it once, in a module that both
 * publishers and consumers import.
 *
 * **Details**
 *
 * - `publish` returns when the broker has the message. What that survives is on the driver's page.
 * - The payload travels as JSON, by the schema's JSON codec. The version travels with it: a consumer reads older versions
 *   through `upcast`, each straight to the current type, and sets aside what it does not know.
 * - Which broker it is, is a layer: a topic requires `Broker`, and what its options ask for, such as `Broker<"delay">`.
 *
 * **Example** (Publishing and handling)
 *
 * ```ts
 * import { Deferred, Effect, Layer, Schema } from "effect"
 * import { Consumer, Topic } from "millrace"
 * import { Memory } from "millrace/memory"
 *
 * const OrderPlaced = Topic.make("orders.placed", {
 *   schema: Schema.Struct({ orderId: Schema.String, total: Schema.Number }),
 *   version: 1,
 *   key: (order) => order.orderId
 * })
 *
 * const program = Effect.gen(function*() {
 *   const handled = yield* Deferred.make<string>()
 *   yield* Consumer.make(OrderPlaced, (order) => Deferred.succeed(handled, order.orderId), { group: "sms" })
 *   yield* OrderPlaced.publish({ orderId: "o-1", total: 12 })
 *   return yield* Deferred.await(handled)
 * })
 *
 * await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(Memory.layer()))) // => "o-1"
 * ```
 */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { format } from "effect/Formatter"
import type * as Schema from "effect/Schema"
import { durationProblem, toMillis } from "../pool/Durations.ts"
import { InvalidOption } from "../pool/WorkerPool.ts"
import type { Broker } from "./Broker.ts"
import { named } from "./Broker.ts"
import { BrokerError, Rejected } from "./BrokerError.ts"
import type { Driver, OutgoingMessage, Published, RawMessage } from "./Driver.ts"
import type { Envelope } from "./Envelope.ts"
import { publishEach, publishOne } from "./internal/answers.ts"
import { makeCodec } from "./internal/Codec.ts"
import { declareOnce } from "./internal/declareOnce.ts"
import { forEachEager } from "./internal/forEachEager.ts"
import { invalidHeader, invalidName } from "./internal/headers.ts"
import { traceparentOf } from "./internal/trace.ts"
import { Source } from "./Source.ts"
import type { Undecodable, UnknownVersion } from "./TopicError.ts"
import { EncodeError, PublishIncomplete } from "./TopicError.ts"

export { EncodeError, PublishIncomplete, Undecodable, UnknownVersion } from "./TopicError.ts"

/** What the broker has confirmed. */
export interface Receipt {
  readonly id: string
  /** True where the broker had a message of this id already and kept that one. */
  readonly duplicate: boolean
}

/** Options of one message. */
export interface PublishOptions {
  /** Unique for this message; publishing it again is safe where broker or consumer tell duplicates apart. Default: random. */
  readonly id?: string | undefined
  /** Instead of the topic's own key function. */
  readonly key?: string | undefined
  /**
   * Free headers. Reserved are `traceparent`, `tracestate` and `content-type`, and names that begin with `ce_`, `ce-`, `ce:`,
   * `cloudevents` or `millrace`.
   */
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly correlationId?: string | undefined
}

/** Options of a batch; a function is asked for every message. */
export interface PublishAllOptions<in A> {
  readonly id?: ((value: A) => string) | undefined
  readonly key?: ((value: A) => string | undefined) | undefined
  readonly headers?: Readonly<Record<string, string>> | ((value: A) => Readonly<Record<string, string>>) | undefined
}

/** The payload of a topic's messages. */
export type Payload<T> = T extends { readonly "~millrace/Topic": { readonly A: (_: infer A) => unknown } } ? A : never

type Given<T, Need> = [T] extends [undefined] ? never : Need

/** A topic of messages with payload `A`, on the broker named `B`. `R` is what its schemas need to encode and decode. */
export interface Topic<in out A, out B extends string = "default", out R = never> {
  readonly name: string
  readonly version: number
  /** The name of its broker. */
  readonly broker: B
  /**
   * Publishes one message and returns when the broker has it.
   *
   * Fails with `EncodeError` where the payload does not match the schema or a header, key or id is wrong, and with `BrokerError` where the broker said no
   * (`Rejected`: it is not there) or could not be asked (`Unavailable`: it may be there, and publishing it again under the
   * same id is safe). Inside a transaction of a broker that has them it becomes visible with the commit.
   */
  readonly publish: <D extends Duration.Input | undefined = undefined, P extends number | undefined = undefined>(
    value: A,
    options?: PublishOptions & {
      /** Delivered no earlier than after this time. */
      readonly delay?: D
      /** Higher first; default 0. */
      readonly priority?: P
    }
  ) => Effect.Effect<Receipt, BrokerError | EncodeError, R | Broker<Given<D, "delay"> | Given<P, "priority">, B>>
  /**
   * Publishes many in few steps. All are encoded before any is sent; fails with `PublishIncomplete` where some were not
   * confirmed, which names each.
   */
  readonly publishAll: (
    values: Iterable<A>,
    options?: PublishAllOptions<A>
  ) => Effect.Effect<ReadonlyArray<Receipt>, BrokerError | EncodeError | PublishIncomplete, R | Broker<never, B>>
  /**
   * Creates or checks the topic and its `groups` at the broker. Publishing and consuming do it by themselves, once; a program
   * may do it as it starts, to hear of what is wrong before the first message.
   */
  readonly declare: Effect.Effect<void, BrokerError, Broker<never, B>>
  /** The payload of a message in the current version. */
  readonly decode: (message: RawMessage) => Effect.Effect<A, Undecodable | UnknownVersion, R>
  /** The bytes of a payload, in the current version. */
  readonly encode: (value: A) => Effect.Effect<Uint8Array, EncodeError, R>
  readonly "~millrace/Topic": { readonly A: (_: A) => A; readonly B: () => B; readonly R: () => R }
}

/** A schema of an older version, and how its messages become the current ones. */
export interface Upcast<out A, out R = never> {
  readonly "~millrace/Upcast": { readonly A: () => A; readonly R: () => R }
  readonly schema: Schema.Constraint
  readonly convert: (old: never) => A
}

/** How messages of an older version are read: decoded with the schema of then, and converted to the type of now. */
export const upcast = <S extends Schema.Constraint, A>(
  schema: S,
  convert: (old: S["Type"]) => A
): Upcast<A, S["DecodingServices"]> =>
  // The phantom field is never read.
  ({ schema, convert }) as unknown as Upcast<A, S["DecodingServices"]>

// An upcast of any requirements; `R` is read off it below.
// biome-ignore lint/suspicious/noExplicitAny: `unknown` would make every upcast require `unknown`
type AnyUpcast<A> = Upcast<A, any>
type UpcastServices<U> = { [K in keyof U]: U[K] extends Upcast<unknown, infer R> ? R : never }[keyof U]

/** Options of a topic. */
export interface TopicOptions<
  S extends Schema.Constraint,
  B extends string,
  U extends { readonly [version: number]: AnyUpcast<S["Type"]> }
> {
  readonly schema: S
  /** The version of the schema: a whole number from 1, raised with every change that older programs cannot read. */
  readonly version: number
  /** Messages of one key are kept in order by consumers with `order: "key"`. Default: no key. */
  readonly key?: ((value: NoInfer<S["Type"]>) => string) | undefined
  /** Older versions that are still on the wire or in the dead letters, each brought to the current type. */
  readonly upcast?: U | undefined
  /** Which broker of the app; see {@link named}. */
  readonly broker?: B | undefined
  /** Groups that must exist before the first message is sent, for brokers that keep messages only for groups they know. */
  readonly groups?: ReadonlyArray<string> | undefined
}

/**
 * Declares a topic.
 *
 * A wrong name or version is a defect (`InvalidOption`) of whatever uses the topic.
 */
export const make = <
  S extends Schema.Constraint,
  const B extends string = "default",
  U extends { readonly [version: number]: AnyUpcast<NoInfer<S["Type"]>> } = Record<never, never>
>(
  name: string,
  options: TopicOptions<S, B, U>
): Topic<S["Type"], B, S["EncodingServices"] | S["DecodingServices"] | UpcastServices<U>> => {
  type A = S["Type"]
  type R = S["EncodingServices"] | S["DecodingServices"] | UpcastServices<U>
  const codec = makeCodec<A>(name, options)
  // The literal default of `B` stands for the missing option.
  const broker = options.broker ?? ("default" as B)
  const service = named(broker)
  const topology = { topic: name, groups: options.groups ?? [] }

  /** What is sent for a payload, or why it cannot be; done at once where the schema waits for nothing. */
  const outgoing = (
    fiber: Fiber.Fiber<unknown, unknown>,
    driver: Driver,
    value: A,
    given: (PublishOptions & { readonly delay?: Duration.Input; readonly priority?: number }) | undefined
  ): Effect.Effect<OutgoingMessage, BrokerError | EncodeError> => {
    const headers = given?.headers ?? noHeaders
    const id = given?.id ?? crypto.randomUUID()
    const key = given?.key ?? options.key?.(value)
    const problem = invalidHeader(headers) ?? invalidName(id, key)
    if (problem !== undefined) return Effect.fail(new EncodeError({ topic: name, problem }))
    const delay = given?.delay === undefined ? undefined : toMillis(given.delay)
    const wrong = invalidTiming(given, delay)
    if (wrong !== undefined) return Effect.die(new InvalidOption({ operation: "Topic.publish", problem: wrong }))
    const envelope: Envelope = {
      id,
      topic: name,
      source: fiber.getRef(Source),
      key,
      version: options.version,
      timestamp: fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(),
      contentType: "application/json",
      attempt: 1,
      traceparent: traceparentOf(fiber),
      tracestate: undefined,
      correlationId: given?.correlationId,
      headers,
      history: undefined,
      death: undefined,
      replays: 0
    }
    return Effect.flatMapEager(codec.encode(value), (body) =>
      body.byteLength > driver.maxMessageBytes
        ? Effect.fail(tooLarge(driver, envelope, body.byteLength))
        : Effect.succeed({ envelope, body, destination: toTopic, delay, priority: given?.priority })
    )
  }
  const toTopic = { _tag: "Topic", topic: name } as const

  // The key of this name holds a driver; its abilities are in the requirements that the signatures add.
  const withDriver = <X, E>(use: (driver: Driver, fiber: Fiber.Fiber<unknown, unknown>) => Effect.Effect<X, E>) =>
    Effect.flatMap(service, (driver) =>
      Effect.flatMapEager(declareOnce(driver, topology), () => Effect.withFiber((fiber) => use(driver, fiber)))
    )

  const publish = (
    value: A,
    given?: PublishOptions & { readonly delay?: Duration.Input; readonly priority?: number }
  ) =>
    withDriver((driver, fiber) =>
      Effect.flatMapEager(outgoing(fiber, driver, value, given), (message) =>
        publishOne(driver, message, ({ _tag }) => ({ id: message.envelope.id, duplicate: _tag === "Duplicate" }))
      )
    )

  const publishAll = (values: Iterable<A>, given?: PublishAllOptions<A>) =>
    withDriver((driver, fiber) => {
      const optionsOf = (value: A): PublishOptions | undefined =>
        given && {
          id: given.id?.(value),
          key: given.key?.(value),
          headers: typeof given.headers === "function" ? given.headers(value) : given.headers
        }
      return Effect.flatMapEager(
        forEachEager(values, (value) => outgoing(fiber, driver, value, optionsOf(value))),
        (messages) =>
          messages.length === 0
            ? Effect.succeed([])
            : Effect.flatMap(publishEach(driver, messages), (answers) => receipts(name, messages, answers))
      )
    })

  const topic: Omit<Topic<A, B, R>, "~millrace/Topic"> = {
    name,
    version: options.version,
    broker,
    publish: publish as unknown as Topic<A, B, R>["publish"],
    publishAll: publishAll as unknown as Topic<A, B, R>["publishAll"],
    declare: withDriver(() => Effect.void) as unknown as Topic<A, B, R>["declare"],
    decode: (message) => Effect.suspend(() => codec.decode(message)),
    encode: (value) => Effect.suspend(() => codec.encode(value))
  }
  // The phantom field exists in the type alone.
  return topic as Topic<A, B, R>
}

/** What is wrong with the delay or priority of a message; `delay` is what the given one says in milliseconds. */
const invalidTiming = (
  given: { readonly delay?: Duration.Input; readonly priority?: number } | undefined,
  delay: number | undefined
): string | undefined => {
  if (given?.delay !== undefined && !(delay !== undefined && delay >= 0 && Number.isFinite(delay))) {
    return `${durationProblem("delay", given.delay)}; it must have an end`
  }
  return given?.priority === undefined || Number.isFinite(given.priority)
    ? undefined
    : `priority must be a number, got ${format(given.priority)}`
}

const noHeaders: Readonly<Record<string, string>> = {}

const tooLarge = (driver: Driver, envelope: Envelope, bytes: number): BrokerError =>
  new BrokerError({
    broker: driver.system,
    operation: "publish",
    topic: envelope.topic,
    ids: [envelope.id],
    reason: new Rejected({
      code: "TooLarge",
      detail: `the payload has ${bytes} bytes, and this broker takes ${driver.maxMessageBytes}; put it elsewhere and send where it is`
    })
  })

/** The receipts of a batch, or which of its messages are not confirmed. */
const receipts = (
  topic: string,
  messages: ReadonlyArray<OutgoingMessage>,
  answers: ReadonlyArray<Published>
): Effect.Effect<ReadonlyArray<Receipt>, PublishIncomplete> => {
  const failed: Array<{ readonly index: number; readonly id: string; readonly error: BrokerError }> = []
  const confirmed: Array<Receipt> = []
  for (const [index, { envelope }] of messages.entries()) {
    const { id } = envelope
    const answer = answers[index]
    if (answer?._tag === "Failed") failed.push({ index, id, error: answer.error })
    else if (answer !== undefined) confirmed.push({ id, duplicate: answer._tag === "Duplicate" })
  }
  return failed.length === 0
    ? Effect.succeed(confirmed)
    : Effect.fail(new PublishIncomplete({ topic, confirmed: confirmed.map(({ id }) => id), failed }))
}
