/**
 * Millrace: background work for Effect programs. What is accepted reaches exactly one recorded outcome.
 */
export * as TaskDump from "./observe/TaskDump.ts"
export * as Background from "./pool/Background.ts"
export * as WorkerPool from "./pool/WorkerPool.ts"
export * as Registry from "./registry/Registry.ts"
