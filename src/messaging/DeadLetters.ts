/**
 * Messages that were set aside, as typed data: one face for every broker that can browse, by itself or with a store beside it.
 *
 * **When to use**
 *
 * Use it for the page or the command with which a person sees what failed, and has it done again once the cause is mended.
 *
 * **Details**
 *
 * - Dead letters belong to a group of a topic, and survive what the broker's messages survive.
 * - {@link replay} reads those that are there when it begins, so what dies again is not read again. Each goes back to its own
 *   group alone, with its attempts counted anew; its history and the number of replays stay with it.
 * - A crash between writing a dead letter and acknowledging its message leaves two letters of one id.
 *
 * **Example** (Looking at what failed, and having it done again)
 *
 * ```ts
 * import { Deferred, Effect, Queue, Schema, Stream } from "effect"
 * import { Consumer, DeadLetters, Topic } from "millrace"
 * import { Memory } from "millrace/memory"
 *
 * const OrderPlaced = Topic.make("orders.placed", { schema: Schema.String, version: 1 })
 *
 * let isMended = false
 * const program = Effect.gen(function*() {
 *   const booked = yield* Queue.unbounded<string>()
 *   const died = yield* Deferred.make<void>()
 *   const book = (order: string) => (isMended ? Queue.offer(booked, order) : Effect.fail("no such product"))
 *   yield* Consumer.make(OrderPlaced, book, {
 *     group: "stock",
 *     onError: () => Consumer.deadLetter,
 *     onDeadLetter: () => Deferred.succeed(died, undefined)
 *   })
 *   yield* OrderPlaced.publish("o-1")
 *   yield* Deferred.await(died)
 *
 *   const letters = yield* Stream.runCollect(DeadLetters.list(OrderPlaced, { group: "stock" }))
 *   isMended = true
 *   const report = yield* DeadLetters.replay(OrderPlaced, { group: "stock", rate: { limit: 100, interval: "1 second" } })
 *   return [letters.map(({ cause }) => cause), report.replayed, yield* Queue.take(booked)]
 * })
 *
 * const result = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(Memory.layer())))
 * result // => [["no such product"], 1, "o-1"]
 * ```
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import type * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Stream from "effect/Stream"
import { toMillis } from "../pool/Durations.ts"
import { InvalidOption } from "../pool/WorkerPool.ts"
import type { Ability, Broker } from "./Broker.ts"
import { named } from "./Broker.ts"
import { BrokerError, Rejected } from "./BrokerError.ts"
import type { DeadLetterStore, Driver, OutgoingMessage, Published, RawMessage, StoredLetter } from "./Driver.ts"
import type { DeathReason, Envelope, FailedAttempt } from "./Envelope.ts"
import { publishOne } from "./internal/answers.ts"
import { emulate as emulateIt } from "./internal/emulate.ts"
import type { Topic } from "./Topic.ts"
import type { EncodeError, UnknownVersion } from "./TopicError.ts"
import { Undecodable } from "./TopicError.ts"

export type { DeathReason, FailedAttempt } from "./Envelope.ts"

/** A message that was set aside. */
export interface DeadLetter<out A> {
  readonly id: string
  readonly topic: string
  readonly group: string
  readonly key: string | undefined
  /** Its place among the dead letters of its group. */
  readonly position: string
  /** Milliseconds since 1970. */
  readonly diedAt: number
  readonly reason: DeathReason
  /** What went wrong last, as a person would read it. */
  readonly cause: string
  /** The attempts that failed, oldest first; the oldest may be left out. */
  readonly attempts: ReadonlyArray<FailedAttempt>
  /** How often it was replayed. */
  readonly replays: number
  /** The payload in the topic's current version, or why it cannot be read. */
  readonly value: Result.Result<A, Undecodable | UnknownVersion>
  readonly raw: Uint8Array
  readonly envelope: Envelope
}

/** Which dead letters: those that match all that is given. */
export interface Filter<in A> {
  readonly ids?: Iterable<string> | undefined
  /** Default: all groups of the topic. */
  readonly group?: string | undefined
  readonly reason?: DeathReason | undefined
  readonly where?: ((letter: DeadLetter<A>) => boolean) | undefined
  /** At most so many. */
  readonly limit?: number | undefined
}

/** How letters are replayed. */
export interface ReplayOptions<in out A> extends Filter<A> {
  /** At most `limit` per `interval`, evenly. Default: as fast as the broker takes them. */
  readonly rate?: { readonly limit: number; readonly interval: Duration.Input } | undefined
  /** Counts only what would be replayed. */
  readonly dryRun?: boolean | undefined
  /** Letters that were replayed so often already stay. Default 3. */
  readonly maxReplays?: number | undefined
  /** Another payload instead of the one that failed; it goes through the topic's schema. `undefined` leaves it as it is. */
  readonly edit?: ((letter: DeadLetter<A>) => A | undefined) | undefined
}

/** What a replay did. */
export interface ReplayReport {
  readonly matched: number
  readonly replayed: number
  /** Ids of those that stay because they were replayed `maxReplays` times. */
  readonly tooOften: ReadonlyArray<string>
  /** Ids of those that the broker or the schema did not take, and why; they stay. */
  readonly failed: ReadonlyArray<{ readonly id: string; readonly problem: string }>
  /** Ids of those that somebody else replayed or removed meanwhile. */
  readonly gone: ReadonlyArray<string>
}

/** A limit that is no number must not mean "all". */
const checked = <O extends { readonly limit?: number | undefined; readonly maxReplays?: number | undefined }>(
  operation: string,
  options: O
): Effect.Effect<O> => {
  const wrong = (["limit", "maxReplays"] as const).find((name) => {
    const value = options[name]
    return value !== undefined && !(Number.isInteger(value) && value >= 0)
  })
  return wrong === undefined
    ? Effect.succeed(options)
    : Effect.die(
        new InvalidOption({
          operation,
          problem: `${wrong} must be a whole number from 0, got ${format(options[wrong])}`
        })
      )
}

/** Lists dead letters, each group's in the order in which they died. */
export const list = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  filter: Filter<NoInfer<A>> = {}
): Stream.Stream<DeadLetter<A>, BrokerError, R | Broker<"browse", B>> =>
  Stream.unwrap(
    Effect.andThen(
      checked("DeadLetters.list", filter),
      Effect.map(storeOf(topic), ({ store }) => letters(topic, store, filter))
    )
  )

/** The dead letter of this id in this group; the latest where there are several. */
export const get = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  group: string,
  id: string
): Effect.Effect<DeadLetter<A> | undefined, BrokerError, R | Broker<"browse", B>> =>
  Effect.map(Stream.runCollect(list(topic, { group, ids: [id] })), (found) => found.at(-1))

/**
 * Gives dead letters back to their groups.
 *
 * Two replays at the same time replay each letter once where the broker can move a letter in one step. Interrupted it leaves
 * each letter either replayed or where it was; without such a step, the one at work may be both.
 */
export const replay = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  options: ReplayOptions<NoInfer<A>> = {}
): Effect.Effect<ReplayReport, BrokerError, R | Broker<"browse", B>> =>
  Effect.gen(function* () {
    const { driver, store } = yield* storeOf(topic)
    const { dryRun = false, edit, maxReplays = 3 } = yield* checked("DeadLetters.replay", options)
    const pause = yield* pauseOf(options.rate)
    const report = { matched: 0, replayed: 0 }
    const tooOften: Array<string> = []
    const failed: Array<{ readonly id: string; readonly problem: string }> = []
    const gone: Array<string> = []
    yield* Stream.runForEach(letters(topic, store, options), (letter) =>
      Effect.gen(function* () {
        report.matched++
        if (letter.replays >= maxReplays) {
          tooOften.push(letter.id)
          return
        }
        if (dryRun) return
        const again = yield* Effect.result(anew(topic, letter, edit))
        if (Result.isFailure(again)) {
          failed.push({ id: letter.id, problem: again.failure.message })
          return
        }
        const answer = yield* move(driver, store, letter, again.success)
        if (answer._tag === "Failed") failed.push({ id: letter.id, problem: answer.error.message })
        else if (answer._tag === "Gone") gone.push(letter.id)
        else report.replayed++
        yield* pause
      })
    )
    return { ...report, tooOften, failed, gone }
  })

/** Removes dead letters for good; answers how many. */
export const purge = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  filter: Filter<NoInfer<A>> = {}
): Effect.Effect<number, BrokerError, R | Broker<"browse", B>> =>
  Effect.gen(function* () {
    yield* checked("DeadLetters.purge", filter)
    const { store } = yield* storeOf(topic)
    let removed = 0
    yield* letters(topic, store, filter).pipe(
      Stream.grouped(100),
      Stream.runForEach((batch) =>
        Effect.forEach(
          Map.groupBy(batch, ({ group }) => group),
          ([group, ofGroup]) =>
            Effect.map(
              store.remove(
                { topic: topic.name, group },
                ofGroup.map(({ position }) => position)
              ),
              (count) => {
                removed += count
              }
            )
        )
      )
    )
    return removed
  })

/**
 * A broker that cannot browse, with a second one beside it that keeps its dead letters: an SQLite file, for RabbitMQ or NSQ.
 *
 * **Details**
 *
 * - Dead letters are written to the second broker alone, and are as safe as what it confirms. Nothing else goes there.
 * - The second broker's own name does not matter; it is not provided to the app.
 * - A replayed letter is published and then removed: a crash between the two, or two replays at the same time, may replay it
 *   twice under its id.
 *
 * **Gotchas**
 *
 * Letters are where the consumer is that wrote them. With consumers on several machines, use a store that all of them share,
 * or look into each machine's own. Letters that were written to the broker itself before are not moved.
 *
 * **Example** (RabbitMQ, its dead letters in a file)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { DeadLetters } from "millrace"
 * import { RabbitMq } from "millrace/rabbitmq"
 * import { Sqlite } from "millrace/sqlite"
 *
 * const broker = DeadLetters.emulate(
 *   RabbitMq.layer({ url: "amqp://127.0.0.1" }),
 *   Sqlite.layer({ filename: "letters.db" })
 * )
 * Layer.isLayer(broker) // => true
 * ```
 */
export const emulate: <Can extends Ability, N extends string, E, R, E2, R2>(
  broker: Layer.Layer<Broker<Can, N>, E, R>,
  beside: Layer.Layer<Broker<"browse">, E2, R2>
) => Layer.Layer<Broker<Can | "browse", N>, E | E2, R | R2> = emulateIt

const storeOf = <A, B extends string, R>(
  topic: Topic<A, B, R>
): Effect.Effect<{ readonly driver: Driver; readonly store: DeadLetterStore }, BrokerError, Broker<"browse", B>> =>
  // The key of this name holds a driver; that it can browse is in the type, and checked here for two brokers of one name.
  Effect.flatMap(named(topic.broker) as unknown as Effect.Effect<Driver, never, Broker<"browse", B>>, (driver) => {
    const store = driver.deadLetters
    return store === undefined
      ? Effect.fail(
          new BrokerError({
            broker: driver.system,
            operation: "read dead letters",
            topic: topic.name,
            reason: new Rejected({
              code: "Unsupported",
              detail: "this broker cannot browse its dead letters; give it a store with DeadLetters.emulate"
            })
          })
        )
      : Effect.succeed({ driver, store })
  })

const letters = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  store: DeadLetterStore,
  filter: Filter<A>
): Stream.Stream<DeadLetter<A>, BrokerError, R> => {
  const ids = filter.ids === undefined ? undefined : new Set(filter.ids)
  const groups = filter.group === undefined ? store.groups(topic.name) : Effect.succeed([filter.group])
  const all = Stream.flatMap(Stream.fromIterableEffect(groups), (group) =>
    store.read({ topic: topic.name, group }).pipe(
      // What can be told from the envelope is told before the payload is decoded.
      Stream.filter(
        ({ message: { envelope } }) =>
          (ids === undefined || ids.has(envelope.id)) &&
          (filter.reason === undefined || envelope.death?.reason === filter.reason)
      ),
      Stream.mapEffect((stored) => letterOf(topic, group, stored))
    )
  )
  const { limit, where } = filter
  const matching = where === undefined ? all : Stream.filter(all, where)
  return limit === undefined ? matching : Stream.take(matching, limit)
}

const letterOf = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  group: string,
  { message, position }: StoredLetter
): Effect.Effect<DeadLetter<A>, never, R> =>
  Effect.map(Effect.result(readable(topic, message)), (value) => {
    const { body, envelope } = message
    return {
      id: envelope.id,
      topic: topic.name,
      group,
      key: envelope.key,
      position,
      diedAt: envelope.death?.at ?? envelope.timestamp,
      reason: envelope.death?.reason ?? "decision",
      cause: envelope.death?.cause ?? "",
      attempts: envelope.history?.attempts ?? [],
      replays: envelope.replays,
      value,
      raw: body,
      envelope
    }
  })

/** A schema or an upcast that dies may be why the letter is here: it must not hide the letter, nor those behind it. */
const readable = <A, B extends string, R>(topic: Topic<A, B, R>, message: RawMessage) =>
  Effect.catchDefect(topic.decode(message), (cause) => {
    const problem = `its schema or upcast died: ${cause instanceof Error ? cause.message : String(cause)}`
    return Effect.fail(new Undecodable({ topic: topic.name, id: message.envelope.id, problem, cause }))
  })

/** The message of a letter, to be handled again: by its group alone, with attempts counted anew. */
const anew = <A, B extends string, R>(
  topic: Topic<A, B, R>,
  letter: DeadLetter<A>,
  edit: ((letter: DeadLetter<A>) => A | undefined) | undefined
): Effect.Effect<OutgoingMessage, EncodeError, R> =>
  Effect.suspend(() => {
    const edited = edit?.(letter)
    const envelope: Envelope = { ...letter.envelope, attempt: 1, death: undefined, replays: letter.replays + 1 }
    const destination = { _tag: "Group", topic: topic.name, group: letter.group } as const
    return edited === undefined
      ? Effect.succeed({ envelope, body: letter.raw, destination })
      : Effect.map(topic.encode(edited), (body) => ({
          envelope: { ...envelope, version: topic.version },
          body,
          destination
        }))
  })

const move = (
  driver: Driver,
  store: DeadLetterStore,
  letter: DeadLetter<unknown>,
  message: OutgoingMessage
): Effect.Effect<Published | { readonly _tag: "Gone" }, BrokerError> => {
  const group = { topic: letter.topic, group: letter.group }
  if (store.move !== undefined) return store.move(group, letter.position, message)
  return Effect.matchEffect(
    publishOne(driver, message, (answer) => answer),
    {
      onFailure: (error) => Effect.succeed({ _tag: "Failed" as const, error }),
      onSuccess: (answer) => Effect.as(store.remove(group, [letter.position]), answer)
    }
  )
}

const pauseOf = (rate: ReplayOptions<never>["rate"]): Effect.Effect<Effect.Effect<void>> => {
  if (rate === undefined) return Effect.succeed(Effect.void)
  const interval = toMillis(rate.interval)
  return interval === undefined || !(rate.limit > 0)
    ? Effect.die(
        new InvalidOption({
          operation: "DeadLetters.replay",
          problem: `rate must have a limit above 0 and an interval such as "1 second", got ${format(rate)}`
        })
      )
    : Effect.succeed(Effect.sleep(Duration.millis(interval / rate.limit)))
}
