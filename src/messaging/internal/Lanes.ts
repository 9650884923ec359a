/**
 * Order within a key when a message of it is given back.
 *
 * The pool runs the tasks of a key one at a time and in order. When one of them is to be tried again later, those behind it
 * must not overtake it: they are given back too, and so is what a take brings that had begun before the broker knew. From a
 * take that begins afterwards the broker hands over the key in order again.
 */
export class Lane {
  readonly key: string
  /** Deliveries of this key that are held. */
  count = 0
  /** Deliveries from takes before this one are given back. Infinite while the broker has not answered. */
  firstTake = 0
  /** Give-backs that the broker has not answered. */
  pending = 0

  constructor(key: string) {
    this.key = key
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

  /** A delivery of the lane is to be given back: nothing of it runs until the broker has answered. */
  block(lane: Lane): void {
    lane.pending++
    lane.firstTake = Number.POSITIVE_INFINITY
  }

  /** The broker has answered: takes that begin from now on bring the key in order. */
  unblock(lane: Lane, nextTake: number): void {
    lane.pending--
    if (lane.pending === 0) lane.firstTake = nextTake
  }

  /** A delivery has ended. `takes` is the number of the latest take: the lane is remembered while an older one may come. */
  leave(lane: Lane, takes: number): void {
    lane.count--
    if (lane.count === 0 && lane.firstTake <= takes) this.lanes.delete(lane.key)
  }

  /** Forgets lanes that had to be remembered for a take that has now ended. */
  sweep(takes: number): void {
    for (const [key, lane] of this.lanes) if (lane.count === 0 && lane.firstTake <= takes) this.lanes.delete(key)
  }
}
