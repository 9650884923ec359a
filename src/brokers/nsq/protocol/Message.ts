/** A message as an nsqd hands it over. */
import { FrameError } from "./errors.ts"

export interface Message {
  /** Its id at this nsqd, 16 characters: what FIN, REQ and TOUCH name it by. */
  readonly id: string
  /** When the nsqd took it in, in milliseconds since 1970. */
  readonly timestamp: number
  /** How often it was handed over, this time included. */
  readonly attempts: number
  /** A view of the packet that it came in. */
  readonly body: Buffer
}

const idAt = 10
const bodyAt = 26

/** Reads the data of a message frame. */
export const readMessage = (data: Buffer): Message | FrameError => {
  if (data.byteLength < bodyAt) {
    return new FrameError({ kind: "broken", detail: `a message of ${data.byteLength} bytes has no id` })
  }
  return {
    // Nanoseconds, of which a number keeps enough.
    timestamp: Math.floor((data.readUInt32BE(0) * 4_294_967_296 + data.readUInt32BE(4)) / 1_000_000),
    attempts: data.readUInt16BE(8),
    id: data.toString("latin1", idAt, bodyAt),
    body: data.subarray(bodyAt)
  }
}
