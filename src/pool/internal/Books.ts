/**
 * The counters of a pool. Together with what is queued and what runs they are its accounting.
 */
import type { Accounting, Outcome } from "../Accounting.ts"

export class Books {
  accepted = 0
  refused = 0
  overrunning = 0
  lateEnds = 0
  readonly ends: Record<Outcome, number> = {
    succeeded: 0,
    failed: 0,
    defected: 0,
    interrupted: 0,
    timedOut: 0,
    expired: 0,
    dropped: 0,
    abandoned: 0
  }

  read(queued: number, running: number, blocked: number): Accounting {
    return {
      accepted: this.accepted,
      queued,
      running,
      ...this.ends,
      overrunning: this.overrunning,
      blocked,
      refused: this.refused,
      lateEnds: this.lateEnds
    }
  }
}
