/**
 * Why a payload could not be written or read. What can go wrong at the broker is in {@link BrokerError}.
 */
import * as Schema from "effect/Schema"
import { BrokerError } from "./BrokerError.ts"

/** The payload does not match the topic's schema, or a header, key or id is not what it may be: nothing was sent. */
export class EncodeError extends Schema.TaggedError<EncodeError>("millrace/EncodeError")("EncodeError", {
  topic: Schema.String,
  /** What is wrong, as a sentence. */
  problem: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return `A message for topic "${this.topic}" cannot be encoded, so nothing was sent: ${this.problem}`
  }
}

/** The bytes of a message are not what the topic's schema of its version expects. */
export class Undecodable extends Schema.TaggedError<Undecodable>("millrace/Undecodable")("Undecodable", {
  topic: Schema.String,
  id: Schema.String,
  problem: Schema.String,
  cause: Schema.optional(Schema.Defect())
}) {
  override get message(): string {
    return `Message ${this.id} of topic "${this.topic}" cannot be decoded: ${this.problem}`
  }
}

/** The message was written with a version of the schema that this program knows neither as current nor from an upcast. */
export class UnknownVersion extends Schema.TaggedError<UnknownVersion>("millrace/UnknownVersion")("UnknownVersion", {
  topic: Schema.String,
  id: Schema.String,
  version: Schema.Number,
  /** The versions that can be read here. */
  known: Schema.Array(Schema.Number)
}) {
  override get message(): string {
    return `Message ${this.id} of topic "${this.topic}" has schema version ${this.version}; known here: ${this.known.join(", ")}. Add an upcast, or let a newer consumer take it.`
  }
}

/** Of the messages of one `publishAll`, some are not confirmed; the others are at the broker. */
export class PublishIncomplete extends Schema.TaggedError<PublishIncomplete>("millrace/PublishIncomplete")(
  "PublishIncomplete",
  {
    topic: Schema.String,
    /** The ids that the broker has. */
    confirmed: Schema.Array(Schema.String),
    /** The others, by their place in the batch: `Rejected` ones are not there, `Unavailable` ones may be. */
    failed: Schema.Array(Schema.Struct({ index: Schema.Number, id: Schema.String, error: BrokerError }))
  }
) {
  override get message(): string {
    const first = this.failed[0]?.error.message ?? ""
    return `${this.failed.length} of ${this.failed.length + this.confirmed.length} messages for topic "${this.topic}" are not confirmed. The first: ${first}`
  }
}
