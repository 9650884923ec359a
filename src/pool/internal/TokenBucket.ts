/**
 * How many tasks may start in a span of time: a bucket of `limit` tokens that fills evenly over the interval.
 *
 * A pool that was idle may start `limit` tasks at once; after that they start at the rate. (A fixed window would allow twice
 * the limit across its edge.)
 */
export class TokenBucket {
  private tokens: number
  private filledAt: number
  private readonly limit: number
  /** Milliseconds that one token takes. */
  private readonly period: number

  constructor(limit: number, intervalMillis: number, now: number) {
    this.limit = limit
    this.tokens = limit
    this.period = intervalMillis / limit
    this.filledAt = now
  }

  /** Takes a token; returns 0, or the milliseconds until there will be one. */
  take(now: number): number {
    // Counted in whole tokens, so that rounding never adds up to a start too many.
    const filled = Math.floor((now - this.filledAt) / this.period + 1e-9)
    if (filled > 0) {
      this.tokens = Math.min(this.limit, this.tokens + filled)
      this.filledAt = this.tokens === this.limit ? now : this.filledAt + filled * this.period
    }
    if (this.tokens === 0) return Math.max(this.filledAt + this.period - now, Number.MIN_VALUE)
    if (this.tokens === this.limit) this.filledAt = now
    this.tokens--
    return 0
  }
}
