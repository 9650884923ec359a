/**
 * Aids for testing programs that work in the background, and what Millrace tests itself with.
 */
export type {
  BlackHole,
  CaseReport,
  ConformanceCase,
  Fixture,
  Transactions,
  Worker
} from "./conformance/brokerConformance.ts"
export { brokerConformance, ConformanceFailed, conformanceWorker } from "./conformance/brokerConformance.ts"
export { everyInterruptionPoint, InvariantBroken } from "./everyInterruptionPoint.ts"
export * as FaultyBroker from "./FaultyBroker.ts"
export { LeakFound, noLeaks } from "./noLeaks.ts"
export * as TcpProxy from "./TcpProxy.ts"
export { whileTimePasses } from "./whileTimePasses.ts"
