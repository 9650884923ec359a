/**
 * The times at which a pool has to act (expiry, timeouts, rate limits, deadlines), on the clock of the pool.
 *
 * A heap of times and one sleeping fiber, however many tasks wait, so that a hundred thousand tasks that may expire cost a
 * heap entry each. Times are milliseconds of the monotonic clock: a step of the wall clock moves nothing.
 */
import type * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"

export interface Timer {
  readonly at: number
  readonly fire: () => void
  /** Place in the heap; -1 when it has fired or was cancelled. */
  index: number
}

/** The longest delay that a JavaScript timer takes; a later time is reached in several sleeps. */
const longestSleep = 2 ** 31 - 1

export class Timers {
  private readonly heap: Array<Timer> = []
  private sleeper: Fiber.Fiber<unknown, unknown> | undefined = undefined
  private wakesAt = Number.POSITIVE_INFINITY
  private readonly clock: Clock.Clock
  private readonly context: Context.Context<never>

  constructor(clock: Clock.Clock, context: Context.Context<never>) {
    this.clock = clock
    this.context = context
  }

  now(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe()) / 1_000_000
  }

  /** Calls `fire` after the delay in milliseconds; a delay of zero or less is over at the next turn of the clock. */
  after(delay: number, fire: () => void): Timer {
    const timer: Timer = { at: this.now() + Math.max(0, delay), fire, index: this.heap.length }
    this.heap.push(timer)
    this.up(timer)
    this.arm()
    return timer
  }

  cancel(timer: Timer): void {
    if (timer.index < 0) return
    this.remove(timer)
    if (this.heap.length === 0) this.disarm()
  }

  close(): void {
    for (const timer of this.heap) timer.index = -1
    this.heap.length = 0
    this.disarm()
  }

  private arm(): void {
    const first = this.heap[0]
    if (first === undefined || first.at >= this.wakesAt || first.at === Number.POSITIVE_INFINITY) return
    this.disarm()
    this.wakesAt = first.at
    const delay = Math.min(Math.max(0, Math.ceil(first.at - this.now())), longestSleep)
    const sleeper = Effect.runForkWith(this.context)(
      // A sleep of nothing would fire inside the caller; a yield keeps `after` asynchronous.
      delay === 0 ? Effect.yieldNow : this.clock.sleep(Duration.millis(delay))
    )
    this.sleeper = sleeper
    sleeper.addObserver(() => {
      if (this.sleeper !== sleeper) return
      // A system timer may wake a fraction of a millisecond early, so the time it was set for counts as reached.
      const now = Math.max(this.now(), Math.min(this.wakesAt, this.now() + 1))
      this.sleeper = undefined
      this.wakesAt = Number.POSITIVE_INFINITY
      // Whatever one of them does, the others have their turn.
      try {
        this.fireDue(now)
      } finally {
        this.arm()
      }
    })
  }

  private disarm(): void {
    const sleeper = this.sleeper
    this.sleeper = undefined
    this.wakesAt = Number.POSITIVE_INFINITY
    sleeper?.interruptUnsafe()
  }

  private fireDue(now: number): void {
    for (let first = this.heap[0]; first !== undefined && first.at <= now; first = this.heap[0]) {
      this.remove(first)
      first.fire()
    }
  }

  private remove(timer: Timer): void {
    const last = this.heap.pop()
    if (last !== undefined && last !== timer) {
      last.index = timer.index
      this.heap[last.index] = last
      this.up(last)
      this.down(last)
    }
    timer.index = -1
  }

  private up(timer: Timer): void {
    while (timer.index > 0) {
      const parent = this.heap[(timer.index - 1) >> 1]
      if (parent === undefined || parent.at <= timer.at) return
      this.swap(parent, timer)
    }
  }

  private down(timer: Timer): void {
    while (true) {
      const left = this.heap[2 * timer.index + 1]
      const right = this.heap[2 * timer.index + 2]
      const child = right !== undefined && left !== undefined && right.at < left.at ? right : left
      if (child === undefined || child.at >= timer.at) return
      this.swap(timer, child)
    }
  }

  /** `lower` sinks into the place of `higher`, its child. */
  private swap(lower: Timer, higher: Timer): void {
    const index = lower.index
    lower.index = higher.index
    higher.index = index
    this.heap[lower.index] = lower
    this.heap[higher.index] = higher
  }
}
