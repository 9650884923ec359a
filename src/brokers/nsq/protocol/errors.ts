/** What can go wrong between a client and an nsqd. */
import * as Schema from "effect/Schema"

/** The stream of bytes is not what the protocol allows: the other side is no nsqd, or the limit is too low. */
export class FrameError extends Schema.TaggedError<FrameError>("millrace/nsq/FrameError")("FrameError", {
  /** `oversized`: a frame larger than the limit. `broken`: anything else. */
  kind: Schema.Literals(["oversized", "broken"]),
  detail: Schema.String
}) {
  override get message(): string {
    return this.detail
  }
}

/** An nsqd answered with an error. */
export class ServerError extends Schema.TaggedError<ServerError>("millrace/nsq/ServerError")("ServerError", {
  /** Such as `E_BAD_TOPIC`. */
  code: Schema.String,
  /** The words of the server, without the code. */
  detail: Schema.String
}) {
  /** Whether the server closes the connection after it. What was sent behind the command that failed is not done then. */
  get closes(): boolean {
    return !openErrors.has(this.code)
  }
  override get message(): string {
    return `nsqd answered ${this.code}: ${this.detail}`
  }
}

/** There is no connection, or there is none any more; what became of commands without an answer is not known. */
export class ConnectionLost extends Schema.TaggedError<ConnectionLost>("millrace/nsq/ConnectionLost")(
  "ConnectionLost",
  {
    address: Schema.String,
    detail: Schema.String,
    /** Nothing listens there: no nsqd runs. */
    refused: Schema.Boolean
  }
) {
  override get message(): string {
    return `no connection to nsqd ${this.address}: ${this.detail}`
  }
}

/** A settlement of a message that is not the client's any more; the connection stays. */
const openErrors: ReadonlySet<string> = new Set(["E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED"])

/** Reads the text of an error frame. */
export const serverError = (text: string): ServerError => {
  const space = text.indexOf(" ")
  return space < 0
    ? new ServerError({ code: text, detail: "" })
    : new ServerError({ code: text.slice(0, space), detail: text.slice(space + 1) })
}
