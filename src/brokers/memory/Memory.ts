/**
 * A broker in the memory of the process, for tests. **It forgets everything with the process.**
 *
 * **When to use**
 *
 * Use it in tests of programs that publish and consume: it needs no server, does everything that any broker does (but keep
 * results), and its time is Effect's clock, so `TestClock` moves delays, retries and leases. For work that must survive, on
 * one machine and without a server, use `Sqlite.layer`.
 *
 * **Details**
 *
 * - `order`: a key is with one subscription at a time, and its messages stay in the order in which they came in; priority
 *   does not count there.
 * - `replay`: a topic retains its latest messages, whoever has handled them. As long as it has no group at all, it takes no
 *   more than it retains, so that none is lost.
 * - `delay` and leases are exact; a lease that was not renewed ends at its time. `deliveries` are counted.
 * - Each build of the layer is a broker of its own. With a `store` made by {@link makeStore}, several are the same broker:
 *   that is an app that stops and starts again, or two apps.
 *
 * It is also the example to read before writing a driver.
 *
 * **Example** (Testing a delayed message)
 *
 * ```ts
 * import { Effect, Queue, Schema } from "effect"
 * import { TestClock } from "effect/testing"
 * import { Consumer, Topic } from "millrace"
 * import { Memory } from "millrace/memory"
 *
 * const Reminder = Topic.make("reminder", { schema: Schema.String, version: 1 })
 *
 * const program = Effect.gen(function*() {
 *   const reminded = yield* Queue.unbounded<string>()
 *   yield* Consumer.make(Reminder, (text) => Queue.offer(reminded, text), { group: "mail" })
 *   yield* Reminder.publish("tea", { delay: "3 minutes" })
 *   const early = yield* Queue.size(reminded)
 *   yield* TestClock.adjust("3 minutes")
 *   return [early, yield* Queue.take(reminded)] as const
 * })
 *
 * const test = Effect.scoped(program).pipe(Effect.provide(Memory.layer()), Effect.provide(TestClock.layer()))
 * await Effect.runPromise(test) // => [0, "tea"]
 * ```
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Broker } from "../../messaging/Broker.ts"
import { named } from "../../messaging/Broker.ts"
import type { BrokerError } from "../../messaging/BrokerError.ts"
import type {
  Backlog,
  DeadLetterStore,
  Delivery,
  Driver,
  SubscribeOptions,
  Subscription
} from "../../messaging/Driver.ts"
import { OptionReader } from "../OptionReader.ts"
import type { Arrival, Group, Member } from "./internal/Group.ts"
import { rejected, system } from "./internal/rejected.ts"
import type { Limits } from "./internal/Store.ts"
import { Store as StoreImpl } from "./internal/Store.ts"

/** What the layer provides: everything, except that anything survives the process. */
export type Abilities = "delay" | "priority" | "order" | "replay" | "browse"

/** What a broker keeps, for several layers to share. */
export interface Store {
  readonly "~millrace/MemoryStore": true
}

/** Options of the broker in memory. */
export interface Options<N extends string> {
  /** Which broker of the app. Default: the only one. */
  readonly name?: N | undefined
  /** What several builds of the layer share. Default: each keeps its own. */
  readonly store?: Store | undefined
  /** For how long a message that is published again under its id is kept once. Default: duplicates are kept. */
  readonly dedupe?: Duration.Input | undefined
  /** The largest payload in bytes. Default 8 MiB. */
  readonly maxMessageBytes?: number | undefined
  /** Most messages that a topic retains for groups that begin in the past. Default 10,000. */
  readonly retain?: number | undefined
}

/** A store to share; it is gone when nothing holds it any more. */
export const makeStore = (): Store => new StoreImpl()

/** A broker that forgets with the process. */
export const layer = <const N extends string = "default">(
  options: Options<N> = {}
): Layer.Layer<Broker<Abilities, N>> =>
  Layer.effect(
    // The literal default of `N` stands for the missing name; and it is here that a driver says what it can.
    named(options.name ?? ("default" as N)) as unknown as Context.Service<Broker<Abilities, N>, Driver>,
    Effect.map(
      Effect.suspend(() => check(options)),
      ({ limits, store }) => makeDriver(store, limits)
    )
  )

const check = (options: Options<string>): Effect.Effect<{ readonly store: StoreImpl; readonly limits: Limits }> => {
  const reader = new OptionReader()
  const isStore = (value: unknown) => value instanceof StoreImpl
  // Stores come from `makeStore` alone; the interface hides what is in them.
  const store = reader.kind("store", options.store, "one that makeStore has made", isStore) as StoreImpl | undefined
  return reader.result("Memory.layer", {
    store: store ?? new StoreImpl(),
    limits: {
      dedupe: reader.span("dedupe", options.dedupe, 0),
      maxMessageBytes: reader.whole("maxMessageBytes", options.maxMessageBytes, 8 * 1024 * 1024),
      retain: reader.whole("retain", options.retain, 10_000, { least: 0 })
    }
  })
}

const makeDriver = (store: StoreImpl, limits: Limits): Driver => {
  return {
    system,
    abilities: {
      delay: "native",
      priority: "native",
      order: "native",
      replay: "native",
      browse: "native",
      results: "none"
    },
    dedupe: limits.dedupe === 0 ? "none" : { window: Duration.millis(limits.dedupe) },
    maxMessageBytes: limits.maxMessageBytes,
    declare: (topology) => Effect.sync(() => store.declare(topology)),
    publish: (messages) => atNow((now) => store.publish(messages, now, limits)),
    subscribe: (options) => subscribe(store, options),
    backlog: ({ group, topic }) => atNow((now) => store.find(topic, group)?.backlog(now) ?? noBacklog),
    groups: (topic) => Effect.sync(() => store.groupsOf(topic)),
    removeGroup: ({ group, topic }) => Effect.sync(() => store.removeGroup(topic, group)),
    deadLetters: deadLetters(store, limits)
  }
}

/** What waits for a group that does not exist. */
const noBacklog: Backlog = { waiting: 0, delayed: 0, inFlight: 0, oldest: undefined }

/** One step at one time, in milliseconds of the monotonic clock. */
const atNow = <A>(step: (now: number) => A): Effect.Effect<A> =>
  Clock.clockWith((clock) => Effect.sync(() => step(nowOf(clock))))

const nowOf = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000

const subscribe = (
  store: StoreImpl,
  options: SubscribeOptions
): Effect.Effect<Subscription, BrokerError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const lost = yield* Queue.unbounded<ReadonlyArray<Delivery>, Cause.Done>()
      const group = store.group(options.topic, options.group, startsAt(options.replay))
      return { group, member: group.join(options, lost) }
    }),
    ({ group, member }) => Effect.sync(() => group.leave(member))
  ).pipe(
    Effect.map(({ group, member }) => ({
      take: (max, maxBytes) => take(group, member, max, maxBytes),
      settle: (settlements) => atNow((now) => group.settle(member, settlements, now)),
      renew: (deliveries) => atNow((now) => group.renew(member, deliveries, now)),
      lost: Stream.fromQueue(member.lost),
      setCredit: (credit) =>
        Effect.sync(() => {
          member.credit = credit
          group.wake()
        })
    }))
  )

/** Which of the retained messages a new group begins with. */
const startsAt = (replay: SubscribeOptions["replay"]): ((arrival: Arrival) => boolean) => {
  if (replay === undefined) return () => false
  if (replay === "earliest") return () => true
  return ({ message }) => message.envelope.timestamp >= replay.getTime()
}

/**
 * Only the waiting is interruptible: what was picked is returned, and a caller that is uninterruptible itself has it. (What a
 * caller lets slip goes back when the subscription is closed.)
 */
const take = (
  group: Group,
  member: Member,
  max: number,
  maxBytes: number
): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> =>
  Effect.uninterruptible(
    Clock.clockWith((clock) => {
      const attempt: Effect.Effect<ReadonlyArray<Delivery>, BrokerError> = Effect.suspend(() => {
        const ended = member.closed ? "the subscription is closed" : group.removed ? "the group was removed" : undefined
        if (ended !== undefined) {
          const about = { operation: "take", topic: member.options.topic }
          return Effect.fail(rejected(about, "NoGroup", `${ended}; subscribe anew`))
        }
        const now = nowOf(clock)
        const deliveries = group.pick(member, max, maxBytes, now)
        if (deliveries.length > 0) return Effect.succeed(deliveries)
        return Effect.andThen(Effect.interruptible(changeOf(group, group.changes, now)), attempt)
      })
      return attempt
    })
  )

/** Waits until there may be something that was not there at `now`, when the group had changed so many times. */
const changeOf = (group: Group, changes: number, now: number): Effect.Effect<void> => {
  const changed = Effect.callback<void>((resume) => Effect.sync(group.onChange(changes, () => resume(Effect.void))))
  const next = group.nextChange(now)
  // Rounded up, since a timer that fires early would only be set again.
  return next === Number.POSITIVE_INFINITY ? changed : Effect.raceFirst(changed, Effect.sleep(Math.ceil(next - now)))
}

const deadLetters = (store: StoreImpl, limits: Limits): DeadLetterStore => ({
  read: ({ group, topic }, after) =>
    Stream.suspend(() => {
      const since = after === undefined ? 0 : sequenceOf(after)
      return Stream.fromIterable(
        store.readLetters(topic, group, since).map(([sequence, message]) => ({ message, position: String(sequence) }))
      )
    }),
  remove: ({ group, topic }, positions) =>
    Effect.sync(() => positions.filter((position) => store.removeLetter(topic, group, sequenceOf(position))).length),
  move: ({ group, topic }, position, message) =>
    atNow((now) => store.move({ topic, group, sequence: sequenceOf(position) }, message, now, limits)),
  groups: (topic) => Effect.sync(() => store.groupsWithLetters(topic))
})

/** Positions are sequences as text; what is none of ours names no letter, and stands after all of them. */
const sequenceOf = (position: string): number => (/^\d+$/.test(position) ? Number(position) : Number.POSITIVE_INFINITY)
