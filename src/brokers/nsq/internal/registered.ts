/** What a person who asks what is stuck should know of the broker. */
import type { Entry } from "../../../registry/Registry.ts"
import type { Parts } from "./Parts.ts"

export const entryOf = (name: string, parts: Parts): Entry => ({
  kind: "broker",
  name: `nsq ${name}`,
  counts: () => [
    ["unconfirmed", [...parts.links.values()].reduce((sum, { unconfirmed }) => sum + unconfirmed, 0)],
    ["waiting to be sent", parts.publisher.waiting],
    ["subscriptions", parts.consumptions.size]
  ],
  tasks: () => [],
  notes: () => [
    ...[...parts.links.values()].flatMap(({ connection, problem }) =>
      connection === undefined ? [problem?.message ?? "connecting"] : []
    ),
    ...[...parts.consumptions].flatMap(({ refusals }) => [...refusals.values()].map(({ reason }) => reason.detail)),
    ...(parts.nodes.problem === undefined ? [] : [parts.nodes.problem])
  ]
})
