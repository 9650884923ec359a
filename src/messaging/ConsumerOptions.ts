/**
 * The options of a consumer, and what they mean when they are left out.
 */
import type * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type { ConsumerReport } from "./ConsumerReport.ts"
import type { Decision } from "./Decision.ts"
import type { Envelope } from "./Envelope.ts"

/** Options that every consumer has. A wrong one is a defect (`InvalidOption`) that says what is allowed. */
export interface ConsumerOptions {
  /** Consumers of one group share the messages; each group gets all of them. */
  readonly group: string
  /** Handlers that run at the same time. Default 16. */
  readonly concurrency?: number | undefined
  /** Most messages held, running ones included. Default: twice the concurrency, at least 64; with batches one batch more than run. */
  readonly prefetch?: number | undefined
  /**
   * With `order: "key"`: most messages of one key held, so that one slow key does not hold up the others. Default: an eighth of
   * `prefetch`.
   */
  readonly prefetchPerKey?: number | undefined
  /** No more are taken while this many bytes of payload are held. Default 16 MiB. */
  readonly prefetchBytes?: number | undefined
  /** Attempts after which a message becomes a dead letter, whatever its schedule says. Default 20. */
  readonly maxAttempts?: number | undefined
  /**
   * Deliveries, by the broker's own count, after which a message becomes a dead letter (`crashed`) without being run: it may
   * be what kills the process. Default: 20 above `maxAttempts`.
   */
  readonly maxDeliveries?: number | undefined
  /** Longest run of a handler; it is then interrupted. Default: none. */
  readonly timeout?: Duration.Input | undefined
  /** A handler that ran longer than `timeout`. Default: retry with backoff from 1 second to 5 minutes. */
  readonly onTimeout?: Decision | ((message: Envelope) => Decision) | undefined
  /** A handler or `onError` that died, or a handler that interrupted itself or that the program did. Default: as `onTimeout`. */
  readonly onDefect?: Decision | ((cause: Cause.Cause<never>, message: Envelope) => Decision) | undefined
  /**
   * A message that is not what the schema says. `stop` ends the consumer, with an error log and `ConsumerStopped` for those who
   * wait for `stopped`; its layer stays open. Default `deadLetter`.
   */
  readonly onUndecodable?: "deadLetter" | "stop" | undefined
  /**
   * A version that this program does not know. `release` gives it back for `unknownVersionDelay`, so that a newer member of
   * the group can take it while a deployment rolls. Default `release`.
   */
  readonly onUnknownVersion?: "release" | "deadLetter" | undefined
  /** Default 10 seconds. */
  readonly unknownVersionDelay?: Duration.Input | undefined
  /** How long a message stays ours without being renewed, where the broker has leases; renewed at a third. Default 30 seconds. */
  readonly lease?: Duration.Input | undefined
  /** At most `limit` handlers begin per `interval`, as a token bucket. */
  readonly rateLimit?: { readonly limit: number; readonly interval: Duration.Input } | undefined
  /** How long a shutdown lets running handlers end. Default 30 seconds. */
  readonly shutdownDeadline?: Duration.Input | undefined
  /** How long interrupted handlers may take after that, and then open settlements and the end of the subscription. Default 5 seconds. */
  readonly shutdownGrace?: Duration.Input | undefined
  /**
   * Hears of each message that was set aside, after its letter was written and before it is acknowledged, so that a crash
   * between the two tells it again. Its failure is logged and changes nothing.
   */
  readonly onDeadLetter?: ((message: Envelope) => Effect.Effect<unknown, unknown>) | undefined
  /** Is handed the report when the consumer has closed; waited for no longer than `shutdownGrace`. */
  readonly onShutdown?: ((report: ConsumerReport) => Effect.Effect<unknown>) | undefined
  /**
   * With messages waiting, none held and none taken for this long, it is reported as stalled and subscribes anew. A broker
   * that leaves a question unanswered for this long counts as unreachable. Default 30 seconds.
   */
  readonly stallAfter?: Duration.Input | undefined
}

/** Options that ask the broker for an ability. */
export interface AbilityOptions<Order, Replay> {
  /**
   * `key`: messages of one key run one at a time, in order, over all members of the group; each of them has to ask for it.
   * Messages without a key have no order.
   */
  readonly order?: Order
  /**
   * Where a group that does not exist yet begins; no effect on one that does. Default: with what is published from now on, and
   * the first group of a topic with what the topic has kept.
   */
  readonly replay?: Replay
}

/** Options of a consumer of batches. */
export interface BatchOptions {
  /** Most messages in a batch. */
  readonly size: number
  /** How long the first message of a batch waits for others. */
  readonly linger: Duration.Input
}
