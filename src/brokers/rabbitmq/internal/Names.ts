/** What topics and groups are called at the server. docs/brokers/rabbitmq.md has them for those who bind to them. */
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Group } from "../../../messaging/Driver.ts"
import type { NameRules } from "../../../messaging/derivedName.ts"
import { derivedName, nameProblem } from "../../../messaging/derivedName.ts"
import { rejected } from "./errors.ts"

const rules: NameRules = { separator: ":", longest: 255, reserved: /^amq\./ }

/** The exchange of a topic has the name of the topic. */
export const queueOf = ({ group, topic }: Group): string => derivedName(rules, [topic, group])
export const deadQueueOf = ({ group, topic }: Group): string => derivedName(rules, [topic, group, "dead"])
export const retryQueueOf = ({ group, topic }: Group, range: number): string =>
  derivedName(rules, [topic, group, "retry", String(range)])
/** Messages to all groups of a topic that were published with a delay. No group is called by two separators. */
export const delayQueueOf = (topic: string, range: number): string =>
  derivedName(rules, [topic, "", "delay", String(range)])

/** Names found good, since those of each message are looked at. A program has some; foreign ones may be many. */
const good = new Set<string>()
const mostGood = 10_000

/** The error of a name that this broker cannot have. */
export const invalidName = (operation: string, topic: string, group?: string): BrokerError | undefined => {
  // Good names contain no line breaks.
  const both = group === undefined ? topic : `${topic}\n${group}`
  if (good.has(both)) return undefined
  const problem =
    nameProblem(rules, "topic", topic) ?? (group === undefined ? undefined : nameProblem(rules, "group", group))
  if (problem !== undefined) return rejected({ operation, topic }, "InvalidName", problem)
  if (good.size >= mostGood) good.clear()
  good.add(both)
  return undefined
}
