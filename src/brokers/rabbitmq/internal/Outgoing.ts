/** Messages as they are handed to the publisher: checked, and with the way that they take. */
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { OutgoingMessage, Published, RawMessage } from "../../../messaging/Driver.ts"
import { longestDelay } from "./Delays.ts"
import type { About } from "./errors.ts"
import { rejected } from "./errors.ts"
import { headerProblem } from "./Headers.ts"
import type { Item } from "./Lane.ts"
import { invalidName, queueOf } from "./Names.ts"
import type { RabbitDelivery } from "./Session.ts"
import type { Settings } from "./Settings.ts"
import type { Queue, Topology } from "./Topology.ts"
import { propertiesOf } from "./Wire.ts"

/** Where a message goes, and what must be there before. */
interface Way {
  readonly exchange: string
  readonly routingKey: string
  readonly queue: Queue | undefined
}

/** A message for the publisher, or what is wrong with it. */
export const itemOf = (
  settings: Settings,
  topology: Topology,
  message: OutgoingMessage,
  done: (answer: Published) => void
): Item | BrokerError => {
  const { body, delay = 0, destination, envelope, priority } = message
  const about: About = { operation: "publish", topic: destination.topic, ids: [envelope.id] }
  const group = destination._tag === "Topic" ? undefined : destination.group
  const wrongName = invalidName("publish", destination.topic, group)
  if (wrongName !== undefined) return wrongName
  // What comes again or is set aside has come from this server, whatever is allowed here.
  if (destination._tag === "Topic" && body.byteLength > settings.maxMessageBytes) {
    const detail = `the payload has ${body.byteLength} bytes, and ${settings.maxMessageBytes} are allowed (maxMessageBytes)`
    return rejected(about, "TooLarge", `${detail}; put it elsewhere and send where it is`)
  }
  const wrongHeader = headerProblem(envelope.headers)
  if (wrongHeader !== undefined) return rejected(about, "InvalidName", wrongHeader)
  if (priority !== undefined && settings.priorities === undefined) {
    const detail = 'this broker has no priorities; give its layer queueType: "classic" and priorities'
    return rejected(about, "Unsupported", detail)
  }
  if (delay > longestDelay) {
    return rejected(about, "Unsupported", `a delay of ${delay} ms is longer than RabbitMQ can keep: ${longestDelay} ms`)
  }
  return makeItem(about, message, wayOf(topology, message, delay), settings, delay, priority, done)
}

/** A delivery that comes again, to its group alone. */
export const retryOf = (
  settings: Settings,
  topology: Topology,
  group: { readonly topic: string; readonly group: string },
  delivery: RabbitDelivery,
  message: RawMessage,
  delay: number,
  done: (answer: Published) => void
): Item => {
  const about: About = { operation: "retry", topic: group.topic, ids: [message.envelope.id] }
  const kept = Math.min(delay, longestDelay)
  const way = toGroup(topology, group, kept)
  const { priority } = delivery.source.properties
  const known = settings.priorities !== undefined && typeof priority === "number" ? priority : undefined
  return makeItem(about, message, way, settings, kept, known, done)
}

/** A delivery that is set aside without its consumer's doing. */
export const letterOf = (
  settings: Settings,
  topology: Topology,
  group: { readonly topic: string; readonly group: string },
  message: RawMessage,
  done: (answer: Published) => void
): Item => {
  const about: About = { operation: "set aside", topic: group.topic, ids: [message.envelope.id] }
  return makeItem(about, message, toQueue(topology.deadQueue(group)), settings, 0, undefined, done)
}

const makeItem = (
  about: About,
  { body, envelope }: RawMessage,
  way: Way,
  settings: Settings,
  delay: number,
  priority: number | undefined,
  done: (answer: Published) => void
): Item => ({
  about,
  id: envelope.id,
  ...way,
  content: Buffer.isBuffer(body) ? body : Buffer.from(body.buffer, body.byteOffset, body.byteLength),
  properties: propertiesOf(envelope, {
    expiration: delay > 0 ? Math.ceil(delay) : undefined,
    priority: priority === undefined ? undefined : Math.max(0, Math.min(settings.priorities ?? 0, Math.floor(priority)))
  }),
  done,
  since: Date.now(),
  state: "waiting",
  returned: false,
  again: 0
})

const wayOf = (topology: Topology, { destination }: OutgoingMessage, delay: number): Way => {
  switch (destination._tag) {
    case "Topic":
      return delay > 0
        ? toQueue(topology.delayQueue(destination.topic, delay))
        : { exchange: destination.topic, routingKey: "", queue: undefined }
    case "Group":
      return toGroup(topology, destination, delay)
    case "DeadLetters":
      return toQueue(topology.deadQueue(destination))
  }
}

/** The default exchange takes the name of a queue as the routing key. */
const toQueue = (queue: Queue): Way => ({ exchange: "", routingKey: queue.name, queue })

const toGroup = (topology: Topology, group: { readonly topic: string; readonly group: string }, delay: number): Way =>
  delay > 0
    ? toQueue(topology.retryQueue(group, delay))
    : { exchange: "", routingKey: queueOf(group), queue: undefined }
