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

/**
 * The RDY of each. With enough credit each has one, so that what comes is heard of at once, and the busy ones share the rest.
 * With less, those that have messages keep theirs, and the others take turns, beginning with the one at `turn`.
 */
export const spread = (shares: ReadonlyArray<Share>, credit: number, turn: number): ReadonlyArray<number> => {
  const count = shares.length
  const ready = new Array<number>(count).fill(0)
  if (credit <= 0 || count === 0) return ready
  if (credit < count) takeTurns(shares, credit, turn, ready)
  else shareOut(shares, credit, ready)
  return holdBack(shares, credit, ready)
}

const takeTurns = (shares: ReadonlyArray<Share>, credit: number, turn: number, ready: Array<number>): void => {
  let left = credit
  for (let step = 0; step < shares.length; step++) left -= Math.min(left, shares[step]?.inFlight ?? 0)
  for (let step = 0; step < shares.length && left > 0; step++) {
    const index = (turn + step) % shares.length
    if ((shares[index]?.inFlight ?? 0) > 0) continue
    ready[index] = 1
    left--
  }
}

const shareOut = (shares: ReadonlyArray<Share>, credit: number, ready: Array<number>): void => {
  const busy = shares.flatMap(({ busy }, index) => (busy ? [index] : []))
  const chosen = busy.length > 0 ? busy : shares.map((_, index) => index)
  let left = credit - shares.length
  ready.fill(1)
  for (let step = 0; step < chosen.length; step++) {
    const index = chosen[step] ?? 0
    const part = Math.ceil(left / (chosen.length - step))
    ready[index] = 1 + Math.min(part, (shares[index]?.most ?? 1) - 1)
    left -= (ready[index] ?? 1) - 1
  }
}

/** What is in flight beyond a connection's RDY is not there for others, until it is settled. */
const holdBack = (shares: ReadonlyArray<Share>, credit: number, ready: Array<number>): ReadonlyArray<number> => {
  let over = -credit
  for (const [index, { inFlight }] of shares.entries()) over += Math.max(ready[index] ?? 0, inFlight)
  for (const [index, { inFlight }] of shares.entries()) {
    if (over <= 0) break
    const free = (ready[index] ?? 0) - inFlight
    if (free <= 0) continue
    const less = Math.min(free, over)
    ready[index] = (ready[index] ?? 0) - less
    over -= less
  }
  return ready
}
