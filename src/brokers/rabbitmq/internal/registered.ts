/** What a person who asks what is stuck should know of the broker. */
import type { Entry } from "../../../registry/Registry.ts"
import type { Link } from "./Link.ts"
import type { Parts } from "./Parts.ts"

export const entryOf = (name: string, parts: Parts): Entry => ({
  kind: "broker",
  name: `rabbitmq ${name}`,
  counts: () => [
    ["unconfirmed", parts.publisher.unconfirmed],
    ["waiting to be sent", parts.publisher.waiting],
    ["subscriptions", parts.consumptions.size]
  ],
  tasks: () => [],
  notes: () => [...notesOf(parts.publishing), ...notesOf(parts.consuming)]
})

const notesOf = ({ current, name, problem }: Link): ReadonlyArray<string> => {
  if (current === undefined) return [`no connection to ${name}: ${problem ?? "it was closed"}`]
  return current.blocked === undefined ? [] : [`the server takes no messages now: ${current.blocked}`]
}
