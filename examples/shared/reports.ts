/**
 * What pools and consumers leave behind when they have closed, a line each.
 */
import { Console } from "effect"
import { Consumer, WorkerPool } from "millrace"

export const reports = {
  pool: (report: WorkerPool.ShutdownReport) => Console.log(WorkerPool.formatReport(report)),
  consumer: (report: Consumer.ConsumerReport) => Console.log(Consumer.formatReport(report))
}
