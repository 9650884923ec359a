/** Kafka as the broker. */
export * as Kafka from "./Kafka.ts"
