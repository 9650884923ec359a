/**
 * Order within a key when messages of it are given back.
 *
 * The pool runs the tasks of a key one at a time and in order. When one of them is to be tried again later, those behind it
 * must not overtake it, and are given back too. Until they have come again in the order in which they were held, whatever
 * else a take brings of the key was handed over by a broker that did not know all of it yet, and is given back as well.
 *
 * It ends when all have come again, or with a take that began after the broker had answered everything: from there on the
 * broker keeps the order itself, also where another member of the group has the others by now.
 */
export class Lane {
  readonly key: string
  /** Deliveries of this key that are held. */
  count = 0
  /** Ids of what was given back, in the order in which it must come again. */
  private expected: ReadonlyArray<string> = []
  /** Anything may come from this take on; infinite while the broker has not answered. */
  private firstTake = 0
  /** Messages given back that the broker has not answered. */
  private pending = 0

  private readonly lanes: Lanes

  constructor(key: string, lanes: Lanes) {
    this.key = key
    this.lanes = lanes
  }

  /** Whether a delivery that a take has brought is in order. */
  accepts(id: string, take: number): boolean {
    if (this.expected.length === 0) return true
    if (id === this.expected[0]) {
      this.expected = this.expected.slice(1)
      return true
    }
    if (take >= this.firstTake) {
      this.expected = []
      return true
    }
    if (!this.expected.includes(id)) this.expected = [...this.expected, id]
    return false
  }

  /** These, which were held in this order, are on their way back, and come before what was given back earlier. */
  expect(ids: ReadonlyArray<string>, nextTake: number): void {
    this.expected = [...ids, ...this.expected.filter((id) => !ids.includes(id))]
    this.firstTake = this.pending > 0 ? Number.POSITIVE_INFINITY : nextTake
  }

  /** The broker is about to be told that a message is given back. */
  ask(): void {
    this.pending++
    this.lanes.pending++
    this.firstTake = Number.POSITIVE_INFINITY
  }

  /** The broker has answered. */
  answered(nextTake: number): void {
    this.pending--
    this.lanes.pending--
    if (this.pending === 0) this.firstTake = nextTake
  }

  /** Whether a take, or an older one, may still bring what is out of order. */
  isOpen(takes: number): boolean {
    return this.expected.length > 0 && this.firstTake > takes
  }
}

export class Lanes {
  /**
   * Messages given back, of any key, that the broker has not answered. No take begins meanwhile: each would have begun too
   * early again, and what it brings could be given back for ever.
   */
  pending = 0
  private readonly lanes = new Map<string, Lane>()

  /** The lane of a key, for one more delivery of it. */
  enter(key: string): Lane {
    let lane = this.lanes.get(key)
    if (lane === undefined) {
      lane = new Lane(key, this)
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
    if (lane.count === 0 && !lane.isOpen(takes)) this.lanes.delete(lane.key)
  }
}
