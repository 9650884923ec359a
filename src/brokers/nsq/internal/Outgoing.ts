/** Messages as they are handed to the publisher: checked, and as the bytes that a server stores. */
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { OutgoingMessage, Published } from "../../../messaging/Driver.ts"
import type { About } from "./errors.ts"
import { rejected } from "./errors.ts"
import { deadTopicOf, invalidName, ownTopicOf } from "./Names.ts"
import type { Item } from "./Publisher.ts"
import type { Settings } from "./Settings.ts"
import { growth } from "./Settings.ts"
import { encode } from "./Wire.ts"

/** The furthest that a time may be. */
const furthest = 8.64e15

/** A message for the publisher, or what is wrong with it. */
export const itemOf = (
  settings: Settings,
  message: OutgoingMessage,
  done: (answer: Published) => void
): Item | BrokerError => {
  const { body, delay = 0, destination, envelope, priority } = message
  const about: About = { operation: "publish", topic: destination.topic, ids: [envelope.id] }
  const group = destination._tag === "Topic" ? undefined : destination.group
  const wrongName = invalidName("publish", destination.topic, group)
  if (wrongName !== undefined) return wrongName
  if (priority !== undefined) return rejected(about, "Unsupported", "NSQ has no priorities; leave out priority")
  const now = Date.now()
  if (!(delay >= 0 && now + delay <= furthest)) {
    return rejected(about, "Unsupported", `a delay must be a number of milliseconds from 0, got ${delay}`)
  }
  // What comes again or is set aside has been let in before, and may use the room that was kept for it.
  const most = settings.maxFrameBytes - (destination._tag === "Topic" ? growth : 0)
  if (body.byteLength > most) return tooLarge(about, body.byteLength, settings)
  const bytes = encode(envelope, body, delay > 0 ? now + delay : 0)
  if (bytes.byteLength - 4 > (destination._tag === "Topic" ? most + growth / 2 : most)) {
    return tooLarge(about, bytes.byteLength - 4, settings)
  }
  return { about, topic: placeOf(destination), bytes, delay, done, since: now, state: "waiting", alone: false }
}

const placeOf = (destination: OutgoingMessage["destination"]): string => {
  switch (destination._tag) {
    case "Topic":
      return destination.topic
    case "Group":
      return ownTopicOf(destination)
    case "DeadLetters":
      return deadTopicOf(destination)
  }
}

const tooLarge = (about: About, bytes: number, { maxFrameBytes }: Settings): BrokerError =>
  rejected(
    about,
    "TooLarge",
    `it has ${bytes} bytes with its envelope, and servers take ${maxFrameBytes} (maxFrameBytes), of which ${growth} are kept for retries; put the payload elsewhere and send where it is`
  )
