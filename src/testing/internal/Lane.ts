/**
 * One direction of one proxied connection: what comes from one socket waits in a queue until it may go to the other. The end
 * of the stream and its reset wait there too, so a stalled lane hides them as a cut cable would.
 */
import type { Socket } from "node:net"

/** What the network between the two is like now. */
export interface Conditions {
  stalled: { toServer: boolean; toClient: boolean }
  /** Milliseconds, each way. */
  latency: number
  /** Of each lane. */
  bytesPerSecond: number
}

export type Direction = keyof Conditions["stalled"]

interface Item {
  /** When it arrives at the other end. */
  readonly at: number
  readonly what: Uint8Array | "end" | "reset"
}

/** A lane reads no further ahead than this; the sender's own buffers fill then. */
const mostBytes = 1 << 20

/** With limited bandwidth, bytes go in portions of this many milliseconds. */
const portion = 20

/** Ends the connection with RST. */
export const reset = (socket: Socket): void => {
  // One that still connects would wait until it is connected, to reset that.
  if (socket.connecting) socket.destroy()
  else socket.resetAndDestroy()
}

export class Lane {
  private readonly source: Socket
  private readonly target: Socket
  private readonly direction: Direction
  private readonly conditions: Conditions
  private queue: Array<Item> = []
  private bytes = 0
  private timer: NodeJS.Timeout | undefined = undefined
  /** When the bandwidth that was used is over. */
  private freeAt = 0
  private ended = false
  private closed = false

  constructor(source: Socket, target: Socket, direction: Direction, conditions: Conditions) {
    this.source = source
    this.target = target
    this.direction = direction
    this.conditions = conditions
    source.on("data", (chunk) => {
      this.bytes += chunk.length
      this.push(chunk)
    })
    source.on("end", () => {
      this.ended = true
      this.push("end")
    })
    source.on("close", () => {
      if (!this.ended || source.errored !== null) this.push("reset")
    })
    target.on("drain", () => this.pump())
    this.pump()
  }

  /** Nothing goes any further, and what waits is forgotten. */
  close(): void {
    this.closed = true
    this.queue = []
    clearTimeout(this.timer)
    this.source.pause()
  }

  private push(what: Item["what"]): void {
    if (this.closed) return
    this.queue.push({ at: performance.now() + this.conditions.latency, what })
    this.pump()
  }

  /** Moves what may move now, and sees to it that it is called again. Called too when the conditions have changed. */
  pump(): void {
    if (this.closed) return
    clearTimeout(this.timer)
    const stalled = this.conditions.stalled[this.direction]
    while (!stalled) {
      const item = this.queue[0]
      if (item === undefined) break
      const wait = Math.max(item.at, this.freeAt) - performance.now()
      if (wait > 0) {
        this.timer = setTimeout(() => this.pump(), wait)
        break
      }
      if (this.target.writableNeedDrain) break
      this.move(item)
    }
    if (stalled || this.bytes > mostBytes) this.source.pause()
    else this.source.resume()
  }

  private move({ at, what }: Item): void {
    this.queue.shift()
    if (what === "reset") return reset(this.target)
    if (what === "end") {
      this.target.end()
      return
    }
    const { bytesPerSecond } = this.conditions
    const now = Math.max(1, Math.floor((bytesPerSecond * portion) / 1000))
    if (what.length > now) this.queue.unshift({ at, what: what.subarray(now) })
    const bytes = what.subarray(0, now)
    this.bytes -= bytes.length
    // A timer that came late is made up for, an idle time is not.
    this.freeAt = Math.max(this.freeAt, performance.now() - portion) + (bytes.length / bytesPerSecond) * 1000
    if (this.target.writable) this.target.write(bytes)
  }
}
