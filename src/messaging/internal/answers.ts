/** What a driver answered to a publish. Where it says nothing about a message, nobody knows whether the broker has it. */
import * as Effect from "effect/Effect"
import { BrokerError, Unavailable } from "../BrokerError.ts"
import type { Driver, OutgoingMessage, Published } from "../Driver.ts"

/** One answer for each message, in order. */
export const publishEach = (
  driver: Driver,
  messages: ReadonlyArray<OutgoingMessage>
): Effect.Effect<ReadonlyArray<Published>, BrokerError> =>
  Effect.map(driver.publish(messages), (answers) =>
    messages.map((message, i) => answers[i] ?? { _tag: "Failed", error: unanswered(driver, message) })
  )

type Stored = Exclude<Published, { readonly _tag: "Failed" }>

/** Publishes one message and makes something of the answer; fails where it is not confirmed. */
export const publishOne = <A>(
  driver: Driver,
  message: OutgoingMessage,
  made: (answer: Stored) => A
): Effect.Effect<A, BrokerError> =>
  Effect.flatMap(driver.publish([message]), ([answer]) => {
    if (answer === undefined) return Effect.fail(unanswered(driver, message))
    return answer._tag === "Failed" ? Effect.fail(answer.error) : Effect.succeed(made(answer))
  })

const unanswered = (driver: Driver, { destination, envelope }: OutgoingMessage): BrokerError =>
  new BrokerError({
    broker: driver.system,
    operation: "publish",
    topic: destination.topic,
    ids: [envelope.id],
    reason: new Unavailable({
      detail: "the driver answered nothing about this message, so it may be there or not; publish it again under its id"
    })
  })
