/**
 * What the broker in memory keeps: topics with their groups, messages retained for groups to come, and dead letters.
 *
 * Everything here is synchronous, as in `Group`.
 */
import type { Rejected } from "../../../messaging/BrokerError.ts"
import type { OutgoingMessage, Published, RawMessage, Topology } from "../../../messaging/Driver.ts"
import type { Arrival } from "./Group.ts"
import { Group } from "./Group.ts"
import { rejected } from "./rejected.ts"

interface Topic {
  /** Whether somebody has subscribed, ever: until then what is retained is nobody's. */
  claimed: boolean
  readonly groups: Map<string, Group>
  /** The latest messages, for groups that begin in the past. */
  readonly retained: Array<Arrival>
  /** When each id came in that is not to come in again, oldest first. */
  readonly ids: Map<string, number>
}

/** The dead letters of a group by their sequence. */
type Letters = Map<number, RawMessage>

export interface Limits {
  /** Milliseconds; 0 keeps duplicates. */
  readonly dedupe: number
  readonly maxMessageBytes: number
  readonly retain: number
}

export class Store {
  readonly "~millrace/MemoryStore" = true
  private readonly topics = new Map<string, Topic>()
  private readonly letters = new Map<string, Map<string, Letters>>()
  private sequence = 0

  declare({ groups, topic }: Topology): void {
    // Those that come first come together, and each of them gets what was kept.
    const first = !this.topic(topic).claimed
    for (const name of groups) this.group(topic, name, () => first)
  }

  /** The group, made where it does not exist: with the messages of before that `from` accepts. */
  group(topic: string, name: string, from: (arrival: Arrival) => boolean): Group {
    const found = this.topic(topic)
    const { groups, retained } = found
    const known = groups.get(name)
    if (known !== undefined) return known
    // What was published before anybody subscribed belongs to the first who does, wherever it begins.
    const first = !found.claimed
    found.claimed = true
    const group = new Group()
    groups.set(name, group)
    for (const arrival of retained) if (first || from(arrival)) group.add(arrival)
    return group
  }

  find(topic: string, name: string): Group | undefined {
    return this.topics.get(topic)?.groups.get(name)
  }

  groupsOf(topic: string): ReadonlyArray<string> {
    return [...(this.topics.get(topic)?.groups.keys() ?? [])]
  }

  removeGroup(topic: string, name: string): void {
    const group = this.find(topic, name)
    this.topics.get(topic)?.groups.delete(name)
    group?.remove()
  }

  /** Puts messages where they go, and tells their groups when all are there. */
  publish(messages: ReadonlyArray<OutgoingMessage>, now: number, limits: Limits): ReadonlyArray<Published> {
    const touched = new Set<Group>()
    const answers = messages.map((message) => this.answered(message, now, limits, touched))
    for (const group of touched) group.wake()
    return answers
  }

  /** Puts a message where it goes, instead of this letter. */
  move(
    letter: { readonly topic: string; readonly group: string; readonly sequence: number },
    message: OutgoingMessage,
    now: number,
    limits: Limits
  ): Published | { readonly _tag: "Gone" } {
    const letters = this.lettersOf(letter.topic, letter.group)
    if (!letters.has(letter.sequence)) return { _tag: "Gone" }
    const touched = new Set<Group>()
    const answer = this.answered(message, now, limits, touched)
    // Before anybody is told: whoever waits goes on at once, and may replay what is here.
    if (answer._tag === "Confirmed") letters.delete(letter.sequence)
    for (const group of touched) group.wake()
    return answer
  }

  private answered(message: OutgoingMessage, now: number, limits: Limits, touched: Set<Group>): Published {
    const refused = this.put(message, now, limits, touched)
    if (refused === undefined) return { _tag: "Confirmed" }
    if (refused === "Duplicate") return { _tag: "Duplicate" }
    const ids = [message.envelope.id]
    const about = { operation: "publish", topic: message.destination.topic, ids }
    return { _tag: "Failed", error: rejected(about, ...refused) }
  }

  /** Puts a message where it goes, or says why not. */
  private put(
    { body, delay, destination, envelope, priority }: OutgoingMessage,
    now: number,
    limits: Limits,
    touched: Set<Group>
  ): "Duplicate" | readonly [code: Rejected["code"], detail: string] | undefined {
    if (body.byteLength > limits.maxMessageBytes) {
      return ["TooLarge", `the payload has ${body.byteLength} bytes, and the limit is ${limits.maxMessageBytes}`]
    }
    const { groups, ids, retained } = this.topic(destination.topic)
    const arrival: Arrival = {
      sequence: ++this.sequence,
      // What the publisher does to its bytes afterwards does not reach the message.
      message: { envelope, body: body.slice() },
      priority: priority ?? 0,
      arrivedAt: now,
      dueAt: now + (delay ?? 0)
    }
    if (destination._tag === "DeadLetters") {
      this.lettersOf(destination.topic, destination.group).set(arrival.sequence, arrival.message)
      return
    }
    if (destination._tag === "Group") {
      const group = groups.get(destination.group)
      if (group === undefined) return ["NoGroup", `there is no group "${destination.group}"; subscribe to it first`]
      group.add(arrival)
      touched.add(group)
      return
    }
    forgetBefore(ids, now - limits.dedupe)
    if (ids.has(envelope.id)) return "Duplicate"
    if (groups.size === 0 && retained.length >= limits.retain) {
      return ["Full", `nobody has subscribed yet, and ${limits.retain} messages are retained already (option "retain")`]
    }
    if (limits.dedupe > 0) ids.set(envelope.id, now)
    retained.push(arrival)
    if (retained.length > limits.retain) retained.shift()
    for (const group of groups.values()) {
      group.add(arrival)
      touched.add(group)
    }
    return
  }

  /** The dead letters of a group after a sequence, as they are now. */
  readLetters(topic: string, group: string, after: number): ReadonlyArray<readonly [sequence: number, RawMessage]> {
    return [...this.lettersOf(topic, group)].filter(([sequence]) => sequence > after)
  }

  removeLetter(topic: string, group: string, sequence: number): boolean {
    return this.lettersOf(topic, group).delete(sequence)
  }

  groupsWithLetters(topic: string): ReadonlyArray<string> {
    return [...(this.letters.get(topic) ?? [])].flatMap(([group, letters]) => (letters.size > 0 ? [group] : []))
  }

  private topic(name: string): Topic {
    return getOrMake(this.topics, name, () => ({ claimed: false, groups: new Map(), retained: [], ids: new Map() }))
  }

  private lettersOf(topic: string, group: string): Letters {
    return getOrMake(
      getOrMake(this.letters, topic, () => new Map<string, Letters>()),
      group,
      () => new Map()
    )
  }
}

/** Forgets ids that came in at this time or before. */
const forgetBefore = (ids: Map<string, number>, time: number): void => {
  for (const [id, at] of ids) {
    if (at > time) return
    ids.delete(id)
  }
}

const getOrMake = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
  const known = map.get(key)
  if (known !== undefined) return known
  const made = make()
  map.set(key, made)
  return made
}
