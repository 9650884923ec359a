/**
 * What one broker implements. Decoding, attempts, retry policy, order within a process, leases' renewal, drain, tracing, dead
 * letters and accounting are above it, written once for all brokers.
 *
 * **When to use**
 *
 * Use it to bring a broker that Millrace does not know. Run the conformance suite of `millrace/testing` against it.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import type { Ability } from "./Broker.ts"
import type { BrokerError } from "./BrokerError.ts"
import type { Envelope } from "./Envelope.ts"

/** One broker. All operations may be called at the same time from many fibers; a driver batches what comes together. */
export interface Driver {
  /** OpenTelemetry `messaging.system`, such as `sqlite`. */
  readonly system: string
  /** The abilities of its type at run time; the conformance suite proves each yes and each no. */
  readonly abilities: Readonly<Record<Ability, "native" | "emulated" | "none">>
  /** Whether a message published twice under one id is kept once, and for how long after the first. */
  readonly dedupe: "none" | { readonly window: Duration.Duration }
  /** The largest payload in bytes that fits beside an envelope of usual size. */
  readonly maxMessageBytes: number
  /**
   * Creates or checks a topic and groups. Done again it changes nothing. No groups means: keep what is published. Answers
   * `provisional` inside a transaction that may yet be rolled back.
   */
  readonly declare: (topology: Topology) => Effect.Effect<void | "provisional", BrokerError>
  /**
   * Whether an operation may be part of a transaction of the fiber that calls it: then none waits for that of another fiber,
   * which may wait for this one's transaction. Default: false.
   */
  readonly inTransactions?: boolean | undefined
  /**
   * Sends the messages; one answer for each, in order. `Confirmed` means that the broker has it and that it survives what the
   * driver's documentation says it survives. Fails only where nothing is known about any of them. Interrupted, some may have
   * been sent.
   */
  readonly publish: (messages: ReadonlyArray<OutgoingMessage>) => Effect.Effect<ReadonlyArray<Published>, BrokerError>
  /** Opens a subscription and keeps it open across reconnects; closing the scope gives back what is unsettled. */
  readonly subscribe: (options: SubscribeOptions) => Effect.Effect<Subscription, BrokerError, Scope.Scope>
  /** What waits for a group. */
  readonly backlog: (group: Group) => Effect.Effect<Backlog, BrokerError>
  /** The groups of a topic that the broker knows; `undefined` where it cannot say. */
  readonly groups: (topic: string) => Effect.Effect<ReadonlyArray<string> | undefined, BrokerError>
  /** Deletes a group with what waits for it, its dead letters excepted. What it does not know it does not mind. */
  readonly removeGroup: (group: Group) => Effect.Effect<void, BrokerError>
  /** Reads and removes dead letters without consuming them; there exactly where `browse` is an ability. */
  readonly deadLetters?: DeadLetterStore | undefined
}

/** A consumer group of a topic. Names are free; a driver answers `InvalidName` for what its broker cannot have. */
export interface Group {
  readonly topic: string
  readonly group: string
}

export interface Topology {
  readonly topic: string
  readonly groups: ReadonlyArray<string>
}

/** A message as a broker keeps it. */
export interface RawMessage {
  readonly envelope: Envelope
  readonly body: Uint8Array
}

/** Where a message goes. How these are named at the broker is the driver's own, and never ambiguous. */
export type Destination =
  /** All groups of the topic. */
  | { readonly _tag: "Topic"; readonly topic: string }
  /** One group only: a replayed dead letter. */
  | { readonly _tag: "Group"; readonly topic: string; readonly group: string }
  /** The dead letters of a group, which nobody consumes. */
  | { readonly _tag: "DeadLetters"; readonly topic: string; readonly group: string }

export interface OutgoingMessage extends RawMessage {
  readonly destination: Destination
  /** Milliseconds before it is delivered; only with ability `delay`. */
  readonly delay?: number | undefined
  /** Higher first; only with ability `priority`. */
  readonly priority?: number | undefined
}

export type Published =
  | { readonly _tag: "Confirmed" }
  /** It was already there under this id, within the window of `dedupe`. */
  | { readonly _tag: "Duplicate" }
  | { readonly _tag: "Failed"; readonly error: BrokerError }

export interface SubscribeOptions extends Group {
  /** Most deliveries held unsettled: prefetch, RDY, max_ack_pending, claim limit, open offsets. */
  readonly credit: number
  /** Milliseconds that a delivery stays ours without being renewed, where the broker has leases. */
  readonly lease: number
  /**
   * `key`: never let two processes hold messages of one key, and hand over none before an earlier one of its key is settled
   * or held by this subscription. Order among what this subscription holds is kept above.
   */
  readonly order: "key" | "none"
  /**
   * With `order: "key"`: most deliveries of one key held, so that one slow key does not take the whole credit and others flow.
   * Left out: no bound of its own.
   */
  readonly perKey?: number | undefined
  /** Where a group that does not exist yet begins; only with ability `replay`. Default: with what is published from now on. */
  readonly replay?: "earliest" | Date | undefined
}

export interface Subscription {
  /**
   * Waits for one delivery and answers up to `max`, at most `maxBytes` of payload but always one. Called by one fiber at a
   * time. Interrupted it loses nothing: what the broker handed over is there for the next `take`, or is given back when the
   * scope closes at the latest.
   */
  readonly take: (max: number, maxBytes: number) => Effect.Effect<ReadonlyArray<Delivery>, BrokerError>
  /**
   * Settles deliveries, one answer for each, in order. Safe to call again after a `BrokerError` or an interruption, which
   * ends a call that does not answer: what was settled meanwhile says so. With `order: "key"`, a `take` that begins after a `Retry` or `Release` was answered hands over nothing of that
   * key before the message that was given back.
   */
  readonly settle: (settlements: ReadonlyArray<Settlement>) => Effect.Effect<ReadonlyArray<Settled>, BrokerError>
  /** Extends leases; answers the new `leaseEndsAt` of each. An end that did not move cannot be moved. */
  readonly renew: (
    deliveries: ReadonlyArray<Delivery>
  ) => Effect.Effect<ReadonlyArray<number | undefined | "Lost">, BrokerError>
  /** Deliveries lost without being asked for: a rebalance, a closed channel, a late FIN. Ends with the scope. */
  readonly lost: Stream.Stream<ReadonlyArray<Delivery>>
  /** Changes the credit. 0 stops new deliveries and keeps those that are held; a `take` that waits goes on waiting. */
  readonly setCredit: (credit: number) => Effect.Effect<void, BrokerError>
  /**
   * What waits for this subscription, where members of a group share by something else than who asks first: partitions of
   * one may be empty while another's are not. Default: what waits for the group.
   */
  readonly backlog?: Effect.Effect<Backlog, BrokerError> | undefined
  /** What keeps it from receiving now, where the driver knows while a `take` waits. */
  readonly problem?: (() => BrokerError | undefined) | undefined
}

/** One message, handed to one subscription once. `settle`, `renew` and `lost` name it by identity. */
export interface Delivery {
  readonly message: RawMessage
  /**
   * How often the broker has handed over this message since a settlement last gave it back, where it can tell that from a
   * crash; `undefined` where it does not count. Only a guard against messages that kill their process: attempts are in the
   * envelope.
   */
  readonly deliveries: number | undefined
  /**
   * When the lease ends unless it is renewed, in milliseconds of the monotonic clock, reckoned from before the broker was
   * asked; `undefined` where it lasts as long as the connection.
   */
  readonly leaseEndsAt: number | undefined
}

export type Settlement =
  /** Done: not again to this group. */
  | { readonly _tag: "Acknowledge"; readonly delivery: Delivery }
  /** Given back as it was, now. */
  | { readonly _tag: "Release"; readonly delivery: Delivery }
  /** Again to this group only, after `delay` milliseconds, with this envelope. */
  | { readonly _tag: "Retry"; readonly delivery: Delivery; readonly delay: number; readonly envelope: Envelope }
  /** Its handler could not be stopped and may still run: not given back, also not by the end of the scope, but by its lease. */
  | { readonly _tag: "Abandon"; readonly delivery: Delivery }

/**
 * `Settled`: the broker confirmed it. `Unconfirmed`: sent or noted, and may still be undone by a crash. `Lost`: the delivery
 * was not ours any more, so nothing happened.
 */
export type Settled = "Settled" | "Unconfirmed" | "Lost"

/** What waits for a group; `undefined` where the broker cannot say. */
export interface Backlog {
  /** Messages not handed out, those whose time has not come included. */
  readonly waiting: number | undefined
  /** Of those, the ones whose time has not come. */
  readonly delayed: number | undefined
  /** Messages handed out and not settled. */
  readonly inFlight: number | undefined
  /** Milliseconds since the oldest waiting message was published. */
  readonly oldest: number | undefined
}

/** A dead letter with its place, by which it is removed. */
export interface StoredLetter {
  readonly message: RawMessage
  readonly position: string
}

/** The dead letters of groups, each group's in the order in which they died. */
export interface DeadLetterStore {
  /** Those after a position, to the end of what is there when it begins. */
  readonly read: (group: Group, after?: string) => Stream.Stream<StoredLetter, BrokerError>
  /** Removes letters; answers how many were there. */
  readonly remove: (group: Group, positions: ReadonlyArray<string>) => Effect.Effect<number, BrokerError>
  /**
   * Publishes the message and removes the letter in one step where the broker can; where it is absent that is two steps, and
   * a crash between them leaves both.
   */
  readonly move?: (
    group: Group,
    position: string,
    message: OutgoingMessage
  ) => Effect.Effect<Published | { readonly _tag: "Gone" }, BrokerError>
  /** The groups that have dead letters of a topic. */
  readonly groups: (topic: string) => Effect.Effect<ReadonlyArray<string>, BrokerError>
}
