/** What is asked of servers by HTTP: what waits, which groups there are, and to delete one. */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Backlog, Group } from "../../../messaging/Driver.ts"
import * as Lookup from "../protocol/Lookup.ts"
import type { About } from "./errors.ts"
import { rejected, unavailable } from "./errors.ts"
import { invalidName, ownTopicOf } from "./Names.ts"
import type { Parts } from "./Parts.ts"

const unknown: Backlog = { waiting: undefined, delayed: undefined, inFlight: undefined, oldest: undefined }

/** The HTTP addresses of all nsqd that may have the topics; `undefined` where one of them is not known. */
const addresses = (parts: Parts, topics: ReadonlyArray<string>): ReadonlyArray<string> | undefined => {
  const all = parts.nodes.having(topics).map(({ http }) => http)
  const known = all.filter((http) => http !== undefined)
  return known.length < all.length || known.length === 0 ? undefined : known
}

/** An answer that did not come is not known; it is no zero. */
const asked = <A>(about: About, effect: Effect.Effect<A, Lookup.HttpError>): Effect.Effect<A, BrokerError> =>
  Effect.mapError(effect, (error) => unavailable(about, error.message, error))

export const backlog = (parts: Parts, group: Group): Effect.Effect<Backlog, BrokerError> => {
  const about = { operation: "ask for the backlog", topic: group.topic }
  const wrong = invalidName(about.operation, group.topic, group.group)
  if (wrong !== undefined) return Effect.fail(wrong)
  return Effect.suspend(() => {
    const topics = [group.topic, ownTopicOf(group)]
    const known = addresses(parts, topics)
    if (known === undefined) return Effect.succeed(unknown)
    const questions = known.flatMap((http) => topics.map((topic) => Lookup.stats(http, topic)))
    return Effect.map(asked(about, Effect.all(questions, { concurrency: "unbounded" })), (answers) =>
      answers.reduce(
        (sum, stats) => {
          const channel = stats?.channels?.find(({ channel_name }) => channel_name === group.group)
          // What a topic has not given to its channels yet goes to each of them.
          const isOurs = channel !== undefined || stats?.channels?.length === 0
          const ahead = isOurs ? (stats?.depth ?? 0) : 0
          const { deferred_count = 0, depth = 0, in_flight_count = 0 } = channel ?? {}
          return {
            waiting: sum.waiting + ahead + depth + deferred_count,
            delayed: sum.delayed + deferred_count,
            inFlight: sum.inFlight + in_flight_count,
            oldest: undefined
          }
        },
        { waiting: 0, delayed: 0, inFlight: 0, oldest: undefined }
      )
    )
  })
}

export const groups = (parts: Parts, topic: string): Effect.Effect<ReadonlyArray<string> | undefined, BrokerError> => {
  const about = { operation: "ask for the groups", topic }
  const wrong = invalidName(about.operation, topic)
  if (wrong !== undefined) return Effect.fail(wrong)
  return Effect.suspend(() => {
    const known = addresses(parts, [topic])
    if (known === undefined) return Effect.succeed(undefined)
    const questions = known.map((http) => Lookup.stats(http, topic))
    return Effect.map(asked(about, Effect.all(questions, { concurrency: "unbounded" })), (answers) => [
      ...new Set(answers.flatMap((stats) => stats?.channels?.map(({ channel_name }) => channel_name) ?? []))
    ])
  })
}

/** Consumers of other processes make it again when they connect again. */
export const removeGroup = (parts: Parts, group: Group): Effect.Effect<void, BrokerError> => {
  const about = { operation: "remove a group", topic: group.topic }
  const wrong = invalidName(about.operation, group.topic, group.group)
  if (wrong !== undefined) return Effect.fail(wrong)
  return Effect.suspend(() => {
    const own = ownTopicOf(group)
    const known = addresses(parts, [group.topic, own])
    if (known === undefined) {
      const detail = "the HTTP addresses of the nsqd are not known; give http in the option nsqd, or lookupd"
      return Effect.fail(rejected(about, "Unsupported", detail))
    }
    parts.topology.forget(group.topic, group.group)
    const closing = [...parts.consumptions].filter(
      ({ options }) => options.topic === group.topic && options.group === group.group
    )
    for (const consumption of closing) {
      consumption.endWith(rejected(about, "NoGroup", "the group was removed; subscribe anew"))
    }
    return asked(
      about,
      Effect.forEach(
        known,
        (http) => Effect.andThen(Lookup.deleteChannel(http, group.topic, group.group), Lookup.deleteTopic(http, own)),
        { concurrency: "unbounded", discard: true }
      )
    )
  })
}
