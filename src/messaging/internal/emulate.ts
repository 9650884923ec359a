/** Dead letters kept by another broker, since their own cannot show them. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Ability, Broker } from "../Broker.ts"
import { named } from "../Broker.ts"
import type { BrokerError } from "../BrokerError.ts"
import type { DeadLetterStore, Driver, OutgoingMessage, Published } from "../Driver.ts"

const brokerPrefix = named("").key

export const emulate = <Can extends Ability, N extends string, E, R, E2, R2>(
  broker: Layer.Layer<Broker<Can, N>, E, R>,
  beside: Layer.Layer<Broker<"browse">, E2, R2>
): Layer.Layer<Broker<Can | "browse", N>, E | E2, R | R2> =>
  Layer.effectContext(
    Effect.gen(function* () {
      // Opened first and so closed last: a letter may be written while the broker closes.
      const letters = Context.get(yield* Layer.build(Layer.fresh(beside)), named("default"))
      const context = yield* Layer.build(broker)
      const services = [...context.mapUnsafe].map(
        // Under the keys of brokers there are drivers.
        ([key, service]) =>
          [key, key.startsWith(brokerPrefix) ? withLetters(service as Driver, letters) : service] as const
      )
      return Context.makeUnsafe<Broker<Can | "browse", N>>(new Map(services))
    })
  )

const withLetters = (driver: Driver, letters: Driver): Driver => ({
  ...driver,
  abilities: { ...driver.abilities, browse: "emulated" },
  // A letter must fit where it goes.
  maxMessageBytes: Math.min(driver.maxMessageBytes, letters.maxMessageBytes),
  publish: (messages) => publish(driver, letters, messages),
  deadLetters: letters.deadLetters && withoutMove(letters.deadLetters)
})

/** A letter goes back to the broker that it came from: in two steps. */
const withoutMove = ({ groups, read, remove }: DeadLetterStore): DeadLetterStore => ({ groups, read, remove })

const isLetter = ({ destination }: OutgoingMessage): boolean => destination._tag === "DeadLetters"

const publish = (
  driver: Driver,
  letters: Driver,
  messages: ReadonlyArray<OutgoingMessage>
): Effect.Effect<ReadonlyArray<Published>, BrokerError> => {
  if (!messages.some(isLetter)) return driver.publish(messages)
  if (messages.every(isLetter)) return letters.publish(messages)
  return Effect.map(
    Effect.all([
      answered(
        driver,
        messages.filter((message) => !isLetter(message))
      ),
      answered(letters, messages.filter(isLetter))
    ]),
    ([others, set]) => {
      const left = { others: [...others], set: [...set] }
      // Each has answered all that it was given.
      return messages.map((message) => (isLetter(message) ? left.set : left.others).shift() as Published)
    }
  )
}

/** One of two must not hide what the other has done. */
const answered = (driver: Driver, messages: ReadonlyArray<OutgoingMessage>): Effect.Effect<ReadonlyArray<Published>> =>
  Effect.catch(driver.publish(messages), (error) =>
    Effect.succeed(messages.map((): Published => ({ _tag: "Failed", error })))
  )
