/**
 * What is published and how it is handled: decided by the id of a message alone, so that every process and the check at the
 * end agree without talking.
 */
import { createHash } from "node:crypto"
import { Schedule, Schema } from "effect"
import { Consumer, Topic } from "millrace"

/**
 * A server keeps the topics of earlier runs, so that each run has one of its own. The processes that it starts inherit the
 * variable.
 */
process.env.MILLRACE_CRASH_RUN ??= String(Date.now())
export const topicName = `crash.check.${process.env.MILLRACE_CRASH_RUN}`

/** A message: the next number of its key. */
export const Steps = Topic.make(topicName, {
  schema: Schema.Struct({ key: Schema.String, n: Schema.Number }),
  version: 1,
  key: ({ key }) => key,
  groups: ["ordered", "plain"]
})

export const groups = [
  { name: "ordered", order: true },
  { name: "plain", order: false }
] as const

/** Keys of one publisher; each is published one message after the other. */
export const keysEach = 8

export class Failed extends Schema.TaggedError<Failed>()("Failed", {}) {}

export const maxAttempts = 4

const fraction = (id: string): number => createHash("sha1").update(id).digest().readUInt32BE(0) / 2 ** 32

/** How often the handlers of a message fail: mostly never, some a few times, a few always. */
export const failuresOf = (id: string): number => {
  const x = fraction(id)
  if (x < 0.01) return Number.POSITIVE_INFINITY
  return x < 0.06 ? 1 + (Math.floor(x * 1000) % 2) : 0
}

export const expectedDead = (id: string): boolean => failuresOf(id) === Number.POSITIVE_INFINITY

export const onError = { Failed: Consumer.retry(Schedule.spaced("50 millis")) }
