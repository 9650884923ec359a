/** The broker in memory, for tests. */
export * as Memory from "./Memory.ts"
