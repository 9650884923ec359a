/** What a person who asks what is stuck should know of the broker. */
import type { Entry } from "../../../registry/Registry.ts"
import type { Parts } from "./Parts.ts"

export const entryOf = (name: string, parts: Parts): Entry => ({
  kind: "broker",
  name: `kafka ${name}`,
  counts: () => [
    ["unconfirmed", parts.producer.unanswered],
    ["unconfirmed bytes", parts.producer.bytes],
    ["subscriptions", parts.consumptions.size],
    ["partitions", sum(parts, ({ partitions }) => partitions.size)],
    ["uncommitted", sum(parts, ({ partitions }) => [...partitions.values()].reduce((all, { size }) => all + size, 0))]
  ],
  tasks: () => [],
  notes: () =>
    [...parts.consumptions].flatMap(({ options: { group, topic }, problem }) =>
      problem === undefined ? [] : [`group "${group}" of ${topic} receives nothing: ${problem.reason.detail}`]
    )
})

const sum = (
  parts: Parts,
  of: (consumption: Parts["consumptions"] extends Set<infer C> ? C : never) => number
): number => [...parts.consumptions].reduce((all, consumption) => all + of(consumption), 0)
