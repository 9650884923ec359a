/**
 * Order within a key when a message of it is given back.
 *
 * The pool runs the tasks of a key one at a time and in order. When one of them is to be tried again later, those behind it
 * must not overtake it, and are given back too: those that wait in the pool, and those that a take brings which the broker
 * had handed over before it knew. The broker keeps the key in order, so all is well again as soon as the message itself is
 * back, or a take brings others of the key that began after the broker had answered.
 */
export class Lane {
  readonly key: string
  /** Deliveries of this key that are held. */
  count = 0
  /** Raised when a message is given back: what was admitted before is not to be run. */
  epoch = 0
  /** The message that was given back and comes first. */
  awaiting: string | undefined = undefined
  /** Others of the key are in order from this take on; infinite while the broker has not answered. */
  firstTake = 0
  /** Messages given back that the broker has not answered. */
  pending = 0

  constructor(key: string) {
    this.key = key
  }

  /** Whether a delivery that a take has brought is in order. */
  accepts(id: string, take: number): boolean {
    if (this.awaiting === undefined) return true
    if (id !== this.awaiting && take < this.firstTake) return false
    this.awaiting = undefined
    return true
  }

  /** A message that ran is given back. */
  block(id: string): void {
    this.epoch++
    this.pending++
    this.awaiting ??= id
    this.firstTake = Number.POSITIVE_INFINITY
  }

  /** The broker has answered: takes that begin from now on bring the key in order. */
  unblock(nextTake: number): void {
    this.pending--
    if (this.pending === 0) this.firstTake = nextTake
  }
}

export class Lanes {
  private readonly lanes = new Map<string, Lane>()

  /** The lane of a key, for one more delivery of it. */
  enter(key: string): Lane {
    let lane = this.lanes.get(key)
    if (lane === undefined) {
      lane = new Lane(key)
      this.lanes.set(key, lane)
    }
    lane.count++
    return lane
  }

  /** A delivery has ended; `takes` is the number of the latest take. */
  leave(lane: Lane, takes: number): void {
    lane.count--
    this.forget(lane, takes)
  }

  /** A take has ended: forgets the lanes that had to be remembered for it. */
  sweep(takes: number): void {
    for (const lane of this.lanes.values()) this.forget(lane, takes)
  }

  /** What an older take may still bring must find its lane. */
  private forget(lane: Lane, takes: number): void {
    if (lane.count === 0 && (lane.awaiting === undefined || lane.firstTake <= takes)) this.lanes.delete(lane.key)
  }
}
