/**
 * One delivery that a consumer holds, from its arrival to its recorded outcome.
 *
 * ```text
 *   queued ──slot──▶ running ──decided──▶ settling ──answered──▶ ended
 *      │ drained, stale: released            ▲
 *      └─────────────────────────────────────┘        lost: ends wherever it is
 * ```
 */
import type * as Fiber from "effect/Fiber"
import type { TaskHandle } from "../../pool/WorkerPool.ts"
import type { DeliveryOutcome } from "../ConsumerReport.ts"
import type { Delivery } from "../Driver.ts"
import type { Envelope } from "../Envelope.ts"
import type { LeaseLost } from "../LeaseLost.ts"
import type { Lane } from "./Lanes.ts"

export type HeldState = "queued" | "running" | "settling" | "ended"

export class Held {
  state: HeldState = "queued"
  /** What became of it, when that is recorded. */
  outcome: DeliveryOutcome | undefined = undefined
  /** Its task in the pool, by which it can be taken out of the backlog. */
  handle: TaskHandle<unknown, unknown> | undefined = undefined
  /** The fiber that handles it. */
  fiber: Fiber.Fiber<unknown, unknown> | undefined = undefined
  /** What is handled together with it, itself included. */
  batch: ReadonlyArray<Held> | undefined = undefined
  /** Set when it is not ours any more. */
  lost: LeaseLost | undefined = undefined
  leaseEndsAt: number | undefined
  readonly delivery: Delivery
  /** The envelope, with what a foreign publisher wrote there made sane. */
  readonly envelope: Envelope
  /** Only where order by key is kept, and the message has one. */
  readonly lane: Lane | undefined

  constructor(delivery: Delivery, lane: Lane | undefined) {
    this.delivery = delivery
    this.envelope = sane(delivery.message.envelope)
    this.lane = lane
    this.leaseEndsAt = delivery.leaseEndsAt
  }

  /** When its lease should be renewed: two thirds are left then. */
  renewAt(lease: number): number {
    return this.leaseEndsAt === undefined ? Number.POSITIVE_INFINITY : this.leaseEndsAt - (lease * 2) / 3
  }

  get bytes(): number {
    return this.delivery.message.body.byteLength
  }
}

/** More attempts than anybody makes: what stands in a foreign header may be anything. */
const mostAttempts = 1_000_000

const sane = (envelope: Envelope): Envelope => {
  const { attempt } = envelope
  if (Number.isInteger(attempt) && attempt >= 1 && attempt <= mostAttempts) return envelope
  return {
    ...envelope,
    attempt: Number.isFinite(attempt) && attempt > mostAttempts ? 1 : Math.max(1, Math.floor(attempt) || 1)
  }
}
