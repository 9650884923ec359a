/** The counters of a consumer: where each delivery is, and what became of those that have ended. */
import type { ConsumerAccounting, DeliveryOutcome } from "../ConsumerReport.ts"
import type { Held, HeldState } from "./Held.ts"

export class ConsumerBooks {
  private received = 0
  private unconfirmed = 0
  bytes = 0
  private readonly places: Record<HeldState, number> = { queued: 0, running: 0, settling: 0, ended: 0 }
  private readonly outcomes: Record<DeliveryOutcome, number> = {
    acknowledged: 0,
    retried: 0,
    deadLettered: 0,
    dropped: 0,
    released: 0,
    lost: 0,
    unsettled: 0
  }

  enter(held: Held): void {
    this.received++
    this.places.queued++
    this.bytes += held.bytes
  }

  move(held: Held, to: HeldState): void {
    this.places[held.state]--
    held.state = to
    this.places[to]++
  }

  end(held: Held, outcome: DeliveryOutcome, confirmed: boolean): void {
    this.move(held, "ended")
    held.outcome = outcome
    this.outcomes[outcome]++
    this.bytes -= held.bytes
    if (!confirmed) this.unconfirmed++
  }

  get queued(): number {
    return this.places.queued
  }

  get running(): number {
    return this.places.running
  }

  read(): ConsumerAccounting {
    const { queued, running, settling } = this.places
    return {
      received: this.received,
      queued,
      running,
      settling,
      ...this.outcomes,
      unconfirmed: this.unconfirmed,
      bytes: this.bytes
    }
  }
}
