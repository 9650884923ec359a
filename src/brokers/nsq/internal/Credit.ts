/**
 * How the credit of a subscription is spread over its connections. An nsqd hands over messages as long as fewer than RDY of
 * them are in flight on a connection, so what counts is that all RDY together are no more than the credit.
 */

/** A connection as the spreading sees it. */
export interface Share {
  /** Handed over and not settled. */
  readonly inFlight: number
  /** Messages have come by it lately. */
  readonly busy: boolean
  /** Most that its server allows. */
  readonly most: number
}

/** From so much credit for each connection on, one each is kept for those by which nothing comes. */
const plenty = 8

/** Whether some connections can have nothing while others have all, so that they must take turns. */
export const needsTurns = (shares: ReadonlyArray<Share>, credit: number): boolean => {
  const count = shares.length
  if (count < 2 || credit >= plenty * count) return false
  return credit < count || shares.some(({ busy }) => busy)
}

/**
 * The RDY of each. As long as nothing comes, all are equal. Then the busy ones share the credit. With plenty of it the others
 * keep one, so that what comes is heard of at once; with less it is one of them at a time, the one at `turn`.
 */
export const spread = (shares: ReadonlyArray<Share>, credit: number, turn: number): ReadonlyArray<number> => {
  const count = shares.length
  const ready = new Array<number>(count).fill(0)
  if (credit <= 0 || count === 0) return ready
  const guest = turn % count
  const inOrder = shares.map((_, step) => (guest + step) % count)
  const busy = inOrder.filter((index) => shares[index]?.busy)
  if (busy.length === 0) shareOut(shares, inOrder, credit, ready)
  else if (!needsTurns(shares, credit)) {
    ready.fill(1)
    shareOut(shares, busy, credit - count + busy.length, ready)
  } else {
    const isBusy = shares[guest]?.busy ?? false
    if (!isBusy) ready[guest] = 1
    shareOut(shares, busy, isBusy ? credit : credit - 1, ready)
  }
  return holdBack(shares, credit, ready, guest)
}

/** To each the same, and what cannot be divided to the first. */
const shareOut = (
  shares: ReadonlyArray<Share>,
  chosen: ReadonlyArray<number>,
  credit: number,
  ready: Array<number>
): void => {
  let left = credit
  for (const [step, index] of chosen.entries()) {
    const part = Math.min(Math.ceil(left / (chosen.length - step)), shares[index]?.most ?? 0)
    ready[index] = part
    left -= part
  }
}

/** What is in flight beyond a connection's RDY is not there for others, until it is settled; for the guest at the last. */
const holdBack = (
  shares: ReadonlyArray<Share>,
  credit: number,
  ready: Array<number>,
  guest: number
): ReadonlyArray<number> => {
  let over = -credit
  for (const [index, { inFlight }] of shares.entries()) over += Math.max(ready[index] ?? 0, inFlight)
  for (let step = 1; step <= shares.length && over > 0; step++) {
    const index = (guest + step) % shares.length
    const free = (ready[index] ?? 0) - (shares[index]?.inFlight ?? 0)
    if (free <= 0) continue
    const less = Math.min(free, over)
    ready[index] = (ready[index] ?? 0) - less
    over -= less
  }
  return ready
}
