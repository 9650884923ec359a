/**
 * The clock of the file: what processes compare in it (leases, delays) is written in this time.
 *
 * Wall clocks step, in both directions, and processes that started before and after a step disagree. The monotonic clock of
 * the machine is the same for all its processes and never steps, but it begins anew when the machine does, and stands still
 * while the machine sleeps. So the time of the file is the monotonic clock plus an offset that is kept in the file:
 *
 * - The wall clock steps back: nothing changes.
 * - It is ahead by more than a second (the machine slept, or the clock was set): the time of the file follows, so that
 *   delayed messages are due when a person expects them, and all leases are moved with it, so that none is lost.
 * - The monotonic clock is behind what the file has seen: the machine was started anew. The time goes on where it was, or at
 *   the wall clock where that is later.
 */
import type * as Clock from "effect/Clock"

/** The two columns of the file's one row. */
export interface Reading {
  readonly offset: number
  readonly seen: number
}

/** How far the wall clock may be ahead; a clock that is being slewed stays below it for hours. */
const tolerance = 1_000
/** How often the monotonic time is noted in the file, so that a restart of the machine is noticed. */
const notedEvery = 60_000

export class FileClock {
  private readonly clock: Clock.Clock
  private offset: number | undefined = undefined

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  /** Milliseconds of the monotonic clock. */
  monotonic(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe()) / 1_000_000
  }

  /** Milliseconds since 1970. */
  wall(): number {
    return this.clock.currentTimeMillisUnsafe()
  }

  /** The time of the file in milliseconds, as far as this process knows it. */
  now(): number {
    return this.offset === undefined ? this.wall() : Math.floor(this.monotonic() + this.offset)
  }

  /** Whether the wall clock has left the time of the file behind, which the next transaction sets right. */
  isBehind(): boolean {
    return this.wall() - this.now() > tolerance
  }

  /** Reads the file's row inside a write transaction; answers what has to be written, if anything. */
  read({ offset, seen }: Reading): (Reading & { readonly jump: number }) | undefined {
    const monotonic = this.monotonic()
    if (monotonic < seen) {
      this.offset = Math.floor(Math.max(this.wall(), seen + offset) - monotonic)
      return { offset: this.offset, seen: Math.floor(monotonic), jump: 0 }
    }
    this.offset = offset
    const ahead = Math.floor(this.wall() - (monotonic + offset))
    if (ahead > tolerance) {
      this.offset = offset + ahead
      return { offset: this.offset, seen: Math.floor(monotonic), jump: ahead }
    }
    return monotonic - seen > notedEvery ? { offset, seen: Math.floor(monotonic), jump: 0 } : undefined
  }
}
