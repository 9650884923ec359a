/**
 * What a pool leaves behind when it closes: what was drained, and what was not.
 */
import type { Accounting } from "./Accounting.ts"
import { outcomes } from "./Accounting.ts"

/** A task that the shutdown could not let end by itself. */
export interface UnfinishedTask {
  readonly id: string
  readonly name: string
  /** What it waited for when it was stopped, where the pool knew of it. */
  readonly waitsFor: string | undefined
}

/** How a shutdown ended. Every number counts tasks. */
export interface ShutdownReport {
  readonly pool: string
  /** Tasks that ended by themselves between the beginning of the shutdown and its deadline. */
  readonly drained: number
  /** Running tasks that the deadline interrupted and that stopped within the grace. */
  readonly interrupted: ReadonlyArray<UnfinishedTask>
  /** Running tasks that did not stop within the grace; they may still be running. */
  readonly abandoned: ReadonlyArray<UnfinishedTask>
  /** Queued tasks that the deadline dropped; they never ran. */
  readonly dropped: number
  /** Producers that waited for a place and were refused. */
  readonly refused: number
  /** Milliseconds from the beginning of the shutdown to its end. */
  readonly elapsed: number
  /** The final books. */
  readonly accounting: Accounting
}

/** Whether everything that was accepted could end by itself. */
export const isClean = (report: ShutdownReport): boolean =>
  report.interrupted.length === 0 && report.abandoned.length === 0 && report.dropped === 0

const named = (tasks: ReadonlyArray<UnfinishedTask>): string => {
  if (tasks.length === 0) return "0"
  const some = tasks.slice(0, 5).map((task) => (task.waitsFor ? `${task.name} (${task.waitsFor})` : task.name))
  return `${tasks.length} [${some.join(", ")}${tasks.length > some.length ? ", …" : ""}]`
}

/** Where everything went that the pool ever accepted. */
const books = (accounting: Accounting): string => {
  const parts = outcomes
    .filter((outcome) => accounting[outcome] > 0)
    .map((outcome) => `${accounting[outcome]} ${outcome}`)
  return accounting.accepted === 0
    ? "Nothing was accepted."
    : `Of ${accounting.accepted} accepted: ${parts.join(", ")}.`
}

/** The report as one line for a log or a terminal. */
export const format = (report: ShutdownReport): string =>
  `Pool "${report.pool}" closed in ${Math.round(report.elapsed)} ms: ${report.drained} drained, ${named(report.interrupted)} interrupted, ${named(report.abandoned)} abandoned, ${report.dropped} dropped, ${report.refused} refused. ${books(report.accounting)}`
