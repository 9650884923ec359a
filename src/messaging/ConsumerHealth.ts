/**
 * A consumer that runs: what it does, how it is, and how to end it.
 */
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { BrokerError } from "./BrokerError.ts"
import type { ConsumerAccounting, ConsumerReport } from "./ConsumerReport.ts"
import { Undecodable } from "./TopicError.ts"

/** A consumer with `onUndecodable: "stop"` met a message that it cannot read, and has closed as if drained. With `order: "key"` nothing later of its key was handled. */
export class ConsumerStopped extends Schema.TaggedError<ConsumerStopped>("millrace/ConsumerStopped")(
  "ConsumerStopped",
  { topic: Schema.String, group: Schema.String, cause: Undecodable }
) {
  override get message(): string {
    return `Consumer "${this.group}" of "${this.topic}" has stopped. ${this.cause.message}`
  }
}

/** How a consumer is, for a health check. */
export interface ConsumerHealth {
  /**
   * `unreachable`: the broker has not answered for `stallAfter`, or answers with errors. `stalled`: messages wait, none is
   * held, and none comes. The other states are what somebody asked for.
   */
  readonly status: "consuming" | "paused" | "unreachable" | "stalled" | "draining" | "stopped"
  /** What the broker last failed with, until that works again. */
  readonly problem: BrokerError | undefined
  /** Milliseconds since messages were last taken, or since it began. */
  readonly sinceTaken: number
}

/** A consumer that runs. */
export interface RunningConsumer {
  readonly topic: string
  readonly group: string
  /** Where every delivery has gone, at this instant. */
  readonly accounting: Effect.Effect<ConsumerAccounting>
  readonly health: Effect.Effect<ConsumerHealth>
  /** Starts no more handlers and takes no more messages. What is held stays ours. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  /** Changes how many handlers run at the same time; more than `prefetch` have nothing to run. */
  readonly resize: (concurrency: number) => Effect.Effect<void>
  /**
   * Closes the consumer: finishes what runs, gives back the rest. Default deadline: the consumer's `shutdownDeadline`. Called
   * again it answers the same report, and the earlier deadline wins. A handler of the consumer would wait for itself, which is
   * a defect; it can fork the drain.
   */
  readonly drain: (options?: { readonly deadline?: Duration.Input | undefined }) => Effect.Effect<ConsumerReport>
  /** Waits for its end. Fails with `ConsumerStopped` where a message has ended it. */
  readonly stopped: Effect.Effect<ConsumerReport, ConsumerStopped>
}
