/** What topics and groups are called at an nsqd. docs/brokers/nsq.md has them for those who read them without Millrace. */
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Group } from "../../../messaging/Driver.ts"
import type { NameRules } from "../../../messaging/derivedName.ts"
import { derivedName, nameProblem } from "../../../messaging/derivedName.ts"
import { rejected } from "./errors.ts"

const longest = 64

const rules: NameRules = {
  separator: "..",
  longest,
  allowed: { pattern: /^[.a-zA-Z0-9_-]+$/, words: "letters a to z, digits, dots, underscores and hyphens" }
}

/** A topic has its own name, a group is the channel of its name. */
export const deadTopicOf = ({ group, topic }: Group): string => derivedName(rules, [topic, group, "dead"])
/** The group's own topic: what comes again to it alone. */
export const ownTopicOf = ({ group, topic }: Group): string => derivedName(rules, [topic, group, "retry"])

/** The error of a name that an nsqd cannot have. */
export const invalidName = (operation: string, topic: string, group?: string): BrokerError | undefined => {
  const problem = nameProblem(rules, "topic", topic) ?? (group === undefined ? undefined : groupProblem(group))
  return problem === undefined ? undefined : rejected({ operation, topic }, "InvalidName", problem)
}

/** Hashed, a channel would be nobody's name any more. */
const groupProblem = (group: string): string | undefined =>
  nameProblem(rules, "group", group) ??
  (group.length > longest ? `group ${JSON.stringify(group)} is longer than ${longest} characters` : undefined)
