/**
 * Millrace: background work for Effect programs. What is accepted reaches exactly one recorded outcome.
 */
export * as Broker from "./messaging/Broker.ts"
export * as Consumer from "./messaging/Consumer.ts"
export * as DeadLetters from "./messaging/DeadLetters.ts"
export type * as Driver from "./messaging/Driver.ts"
export type * as Envelope from "./messaging/Envelope.ts"
export { Source } from "./messaging/Source.ts"
export * as Topic from "./messaging/Topic.ts"
export * as TaskDump from "./observe/TaskDump.ts"
export * as Background from "./pool/Background.ts"
export * as WorkerPool from "./pool/WorkerPool.ts"
export * as Registry from "./registry/Registry.ts"
