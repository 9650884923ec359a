/**
 * What every message says of itself, apart from its payload: who it is, where it comes from, how often it was tried.
 *
 * The names are those of CloudEvents 1.0 where it has one; docs/wire-format.md says where each stands on the wire of each
 * broker. A driver stores and returns an envelope whole, and never changes it by itself.
 */

/** One attempt that did not succeed. */
export interface FailedAttempt {
  readonly attempt: number
  /** When it ended, in milliseconds since 1970. */
  readonly at: number
  /** The tag of the error, `Defect` or `Timeout`. */
  readonly tag: string
  readonly message: string
  /** The process that tried, as `host:pid`. */
  readonly host: string
}

/** What failures have left behind; absent on a message that never failed. */
export interface History {
  /** When the first failure happened, in milliseconds since 1970: schedules that look at the time passed start here. */
  readonly firstFailedAt: number
  /** The latest attempts, oldest first; the oldest are left out beyond 8 kB. */
  readonly attempts: ReadonlyArray<FailedAttempt>
}

/** Why a message became a dead letter. */
export type DeathReason = "decision" | "exhausted" | "defect" | "timeout" | "undecodable" | "unknownVersion" | "crashed"

/** What a dead letter carries beside the envelope of the message that it was. */
export interface Death {
  readonly reason: DeathReason
  /** What went wrong last, as a person would read it; at most 4 kB. */
  readonly cause: string
  /** Milliseconds since 1970. */
  readonly at: number
}

/** The envelope of one message. */
export interface Envelope {
  /** CloudEvents `id`: unique for each publish, the same for every copy, attempt and replay of it. */
  readonly id: string
  /** CloudEvents `type`. */
  readonly topic: string
  /** CloudEvents `source`: who published it. */
  readonly source: string
  /** CloudEvents extension `partitionkey`: messages of one key are kept in order where a consumer asks for it. */
  readonly key: string | undefined
  /** Extension `schemaversion`: the version of the topic's schema that the payload was written with. */
  readonly version: number
  /** CloudEvents `time`, in milliseconds since 1970: when it was published. */
  readonly timestamp: number
  /** CloudEvents `datacontenttype`. */
  readonly contentType: string
  /** Extension `attempt`: 1 for the first. Counted by consumers, so that a delivery without a run costs none. */
  readonly attempt: number
  /** W3C trace context of the publisher. */
  readonly traceparent: string | undefined
  readonly tracestate: string | undefined
  /** Extension `correlationid`: free for the app. */
  readonly correlationId: string | undefined
  /** Free headers of the publisher. */
  readonly headers: Readonly<Record<string, string>>
  readonly history: History | undefined
  /** Present on dead letters. */
  readonly death: Death | undefined
  /** How often it was replayed from the dead letters. */
  readonly replays: number
}
