/**
 * What can go wrong between an app and its broker: the broker cannot be reached (`Unavailable`), or it said no (`Rejected`).
 */
import * as Schema from "effect/Schema"
import { withoutStack } from "../pool/withoutStack.ts"

/**
 * The broker could not be asked, or its answer did not arrive: whether it happened is unknown. Trying again is safe for
 * consumers that tell messages apart by their id. Drivers try again by themselves as long as that makes sense.
 */
export class Unavailable extends Schema.TaggedError<Unavailable>("millrace/Unavailable")("Unavailable", {
  /** What happened and what to do, as a sentence. */
  detail: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return this.detail
  }
}

/** The broker or its driver said no, and would again: it did not happen. */
export class Rejected extends Schema.TaggedError<Rejected>("millrace/Rejected")("Rejected", {
  /**
   * `TooLarge`: more bytes than the broker takes. `NoGroup`: nothing would keep the message. `InvalidName`: a topic, group or
   * header name that the broker cannot have. `Unsupported`: an ability that this broker lacks. `Incompatible`: what exists at
   * the broker differs from what was asked for. `Denied`: not allowed. `Corrupt`: the storage is damaged. `Full`: a limit of
   * the broker is reached. `Refused`: anything else.
   */
  code: Schema.Literals([
    "TooLarge",
    "NoGroup",
    "InvalidName",
    "Unsupported",
    "Incompatible",
    "Denied",
    "Corrupt",
    "Full",
    "Refused"
  ]),
  /** What is wrong and what to do, as a sentence. */
  detail: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return this.detail
  }
}

/** An operation of the broker failed; `reason` says whether it was out of reach or said no. */
export class BrokerError extends Schema.TaggedError<BrokerError>("millrace/BrokerError")("BrokerError", {
  /** The system of the driver, such as `sqlite` or `kafka`. */
  broker: Schema.String,
  /** What was being done, such as `publish`. */
  operation: Schema.String,
  topic: Schema.optional(Schema.String),
  /** The ids of the messages that it is about, where it is about some. */
  ids: Schema.optional(Schema.Array(Schema.String)),
  reason: Schema.Union([Unavailable, Rejected])
}) {
  override get message(): string {
    const about = this.topic === undefined ? this.operation : `${this.operation} on "${this.topic}"`
    const isUnknown = this.operation !== "connect" && this.operation !== "open"
    const unavailable = isUnknown ? "could not be confirmed" : "failed"
    const what = this.reason._tag === "Rejected" ? `was rejected (${this.reason.code})` : unavailable
    return `${this.broker}: ${about} ${what}: ${this.reason.detail}`
  }
}

/** What an error is about. */
export interface About {
  /** What was being done, such as `publish`. */
  readonly operation: string
  readonly topic?: string | undefined
  readonly ids?: ReadonlyArray<string> | undefined
}

/**
 * The errors of one driver: for those who write one. `broker` is its system, such as `kafka`. They have no stack of their own;
 * `cause` keeps its.
 */
export const errorsOf = (broker: string) => {
  const make = ({ ids, operation, topic }: About, reason: Unavailable | Rejected) =>
    new BrokerError({
      broker,
      operation,
      ...(topic === undefined ? {} : { topic }),
      ...(ids === undefined ? {} : { ids }),
      reason
    })
  const because = (cause: unknown) => (cause === undefined ? {} : { cause })
  return {
    /** The broker or the driver says no, and would again. */
    rejected: (about: About, code: Rejected["code"], detail: string, cause?: unknown): BrokerError =>
      withoutStack(() => make(about, new Rejected({ code, detail, ...because(cause) }))),
    /** The broker could not be asked, or its answer did not arrive. */
    unavailable: (about: About, detail: string, cause?: unknown): BrokerError =>
      withoutStack(() => make(about, new Unavailable({ detail, ...because(cause) })))
  }
}
