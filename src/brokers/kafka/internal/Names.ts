/** What topics and groups are called at the server. docs/brokers/kafka.md has them for those who read and write them. */
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Group } from "../../../messaging/Driver.ts"
import type { NameRules } from "../../../messaging/derivedName.ts"
import { derivedName, nameProblem } from "../../../messaging/derivedName.ts"
import { rejected } from "./errors.ts"

const separator = ".."
const rules: NameRules = {
  separator,
  longest: 249,
  allowed: { pattern: /^[a-zA-Z0-9._-]+$/, words: "the letters a to z, digits, dots, hyphens and underscores" },
  reserved: /^__/
}

/** Names of consumer groups have no limit that matters, so this one is never shortened. */
export const groupIdOf = ({ group, topic }: Group): string => `${topic}${separator}${group}`
export const retryTopicOf = ({ group, topic }: Group): string => derivedName(rules, [topic, group, "retry"])
export const deadTopicOf = ({ group, topic }: Group): string => derivedName(rules, [topic, group, "dead"])

/** The group of a topic that a group id at the server stands for. */
export const groupOf = (topic: string, groupId: string): string | undefined => {
  const start = topic + separator
  if (!groupId.startsWith(start)) return undefined
  const group = groupId.slice(start.length)
  return group === "" || group.includes(separator) ? undefined : group
}

/** The group whose dead letters of the topic stand in a topic of this name. */
export const groupOfDeadTopic = (topic: string, name: string): string | undefined => {
  const end = `${separator}dead`
  return name.endsWith(end) ? groupOf(topic, name.slice(0, -end.length)) : undefined
}

/** The error of a name that this broker cannot have. */
export const invalidName = (operation: string, topic: string, group?: string): BrokerError | undefined => {
  const problem =
    nameProblem(rules, "topic", topic) ?? (group === undefined ? undefined : nameProblem(rules, "group", group))
  return problem === undefined ? undefined : rejected({ operation, topic }, "InvalidName", problem)
}
