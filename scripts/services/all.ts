/** The six servers. */
import { kafka } from "./kafka.ts"
import { nats } from "./nats.ts"
import { nsq } from "./nsq.ts"
import { postgres } from "./postgres.ts"
import { rabbitmq } from "./rabbitmq.ts"
import { redis } from "./redis.ts"

export const services = { kafka, nsq, rabbitmq, postgres, redis, nats }

export type Name = keyof typeof services

export const isName = (name: string): name is Name => Object.hasOwn(services, name)
