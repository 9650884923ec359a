/** RabbitMQ as the broker. */
export * as RabbitMq from "./RabbitMq.ts"
