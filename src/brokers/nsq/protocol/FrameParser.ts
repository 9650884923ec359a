/**
 * Cuts the bytes of an nsqd into frames, wherever packets end: four bytes of size, four of type, data.
 *
 * Data is a view of the packet that it came in, without a copy, unless it came in several.
 */
import { FrameError } from "./errors.ts"

/** What an nsqd sends. */
export const frameType = { response: 0, error: 1, message: 2 } as const

export type OnFrame = (type: number, data: Buffer) => void

/** Size and type. */
const headBytes = 8
/** The type counts towards the size. */
const typeBytes = 4

export class FrameParser {
  private readonly maxBytes: number
  private readonly onFrame: OnFrame
  /** Packets of a frame that is not there whole. */
  private rest: Array<Buffer> = []
  private restBytes = 0
  /** Bytes that there must be before it is worth looking again. */
  private needed = headBytes
  private problem: FrameError | undefined = undefined

  /** `maxBytes` is the most data of one frame. */
  constructor(maxBytes: number, onFrame: OnFrame) {
    this.maxBytes = maxBytes
    this.onFrame = onFrame
  }

  /** Reads on; answers what is wrong, and then reads nothing any more, since where the next frame begins is not known. */
  push(packet: Buffer): FrameError | undefined {
    if (this.problem !== undefined) return this.problem
    let bytes = packet
    if (this.restBytes > 0) {
      this.rest.push(packet)
      this.restBytes += packet.byteLength
      if (this.restBytes < this.needed) return undefined
      bytes = Buffer.concat(this.rest, this.restBytes)
    }
    let at = 0
    for (;;) {
      const left = bytes.byteLength - at
      this.needed = headBytes
      if (left < headBytes) break
      const size = bytes.readInt32BE(at)
      const type = bytes.readInt32BE(at + 4)
      this.problem = problemOf(size, type, this.maxBytes)
      if (this.problem !== undefined) return this.problem
      this.needed = size + 4
      if (left < this.needed) break
      this.onFrame(type, bytes.subarray(at + headBytes, at + this.needed))
      at += this.needed
    }
    this.restBytes = bytes.byteLength - at
    this.rest = this.restBytes > 0 ? [bytes.subarray(at)] : []
    return undefined
  }
}

const problemOf = (size: number, type: number, maxBytes: number): FrameError | undefined => {
  if (size < typeBytes) return broken(`a frame of ${size} bytes cannot be`)
  if (type < frameType.response || type > frameType.message) return broken(`there is no frame of type ${type}`)
  if (size - typeBytes <= maxBytes) return undefined
  const detail = `a frame of ${size - typeBytes} bytes is over the limit of ${maxBytes}`
  return new FrameError({ kind: "oversized", detail })
}

const broken = (why: string): FrameError =>
  new FrameError({ kind: "broken", detail: `${why}; is it the TCP port of an nsqd?` })
