/**
 * The books of a consumer, and the report that it leaves behind.
 *
 * At every instant `received = queued + running + settling + Σ outcomes`.
 */

/** What became of a delivery. Exactly one is recorded for each. */
export type DeliveryOutcome =
  | "acknowledged"
  | "retried"
  | "deadLettered"
  | "dropped"
  | "released"
  | "lost"
  | "unsettled"

/** The outcomes, in the order in which a report names them. */
export const deliveryOutcomes: ReadonlyArray<DeliveryOutcome> = [
  "acknowledged",
  "retried",
  "deadLettered",
  "dropped",
  "released",
  "lost",
  "unsettled"
]

/** The numbers of one consumer at one instant, in deliveries. */
export interface ConsumerAccounting extends Readonly<Record<DeliveryOutcome, number>> {
  readonly received: number
  /** Handed over and waiting for their turn. */
  readonly queued: number
  /** In their handler, or being set aside. */
  readonly running: number
  /** Handled; the broker has not answered yet. */
  readonly settling: number
  /** Of the outcomes, those that the broker's protocol does not confirm. */
  readonly unconfirmed: number
  /** Bytes of payload that are held. */
  readonly bytes: number
}

/** Whether every delivery is in exactly one place. */
export const isBalanced = (accounting: ConsumerAccounting): boolean =>
  accounting.received ===
  accounting.queued +
    accounting.running +
    accounting.settling +
    deliveryOutcomes.reduce((sum, outcome) => sum + accounting[outcome], 0)

/** How a consumer ended. */
export interface ConsumerReport {
  readonly topic: string
  readonly group: string
  /** Handlers that ended by themselves after the drain began. */
  readonly drained: number
  /** Deliveries given back without having been run, or interrupted at the deadline. They cost no attempt. */
  readonly released: number
  /** Ids of messages whose handlers did not stop: they are not given back while they may still run. */
  readonly abandoned: ReadonlyArray<string>
  /** Ids of messages whose settlement the broker has not taken in time; they will come again. */
  readonly unsettled: ReadonlyArray<string>
  /** Milliseconds. */
  readonly elapsed: number
  readonly accounting: ConsumerAccounting
}

/** Whether everything that had begun could end. */
export const isClean = (report: ConsumerReport): boolean =>
  report.abandoned.length === 0 && report.unsettled.length === 0

const some = (ids: ReadonlyArray<string>): string =>
  ids.length === 0 ? "0" : `${ids.length} [${ids.slice(0, 5).join(", ")}${ids.length > 5 ? ", …" : ""}]`

/** The report as one line for a log or a terminal. */
export const format = (report: ConsumerReport): string => {
  const parts = deliveryOutcomes
    .filter((outcome) => report.accounting[outcome] > 0)
    .map((outcome) => `${report.accounting[outcome]} ${outcome}`)
  const books =
    report.accounting.received === 0
      ? "Nothing was received."
      : `Of ${report.accounting.received} received: ${parts.join(", ")}.`
  return `Consumer "${report.group}" of "${report.topic}" closed in ${Math.round(report.elapsed)} ms: ${report.drained} drained, ${report.released} released, ${some(report.abandoned)} abandoned, ${some(report.unsettled)} unsettled. ${books}`
}
