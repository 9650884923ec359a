/**
 * Dead letters: a table of their own, which keeps the letters of groups that were removed too.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { DeadLetterStore, Group, StoredLetter } from "../../../messaging/Driver.ts"
import type { About } from "./Failure.ts"
import { fromCause } from "./Failure.ts"
import { fits, noGroup } from "./Publish.ts"
import type { Pump } from "./Pump.ts"
import type { MessageColumns } from "./Rows.ts"
import { columns, fromText, toEnvelope, toText } from "./Rows.ts"
import type { Store } from "./Store.ts"

/** Letters that are read at once; bodies may be large. */
const page = 64

/** Reads outside of a transaction, on the connection of the pump, which is never found inside of one. */
export const reading = <A>(pump: Pump, about: About, read: (store: Store) => A): Effect.Effect<A, BrokerError> =>
  Effect.suspend(() => {
    const { store } = pump
    const refusal = pump.refusal(about)
    if (refusal !== undefined) return Effect.fail(refusal)
    return Effect.try({
      try: () => read(store),
      catch: (cause) => fromCause(about, store.database.filename, cause)
    })
  })

/** A position as it was handed out; what was not is the number of no letter. */
const seqOf = (position: string): number => (/^\d{1,15}$/.test(position) ? Number(position) : -1)

export const deadLetters = (pump: Pump, maxMessageBytes: number): DeadLetterStore => {
  const { store } = pump

  const readPage = ({ group, topic }: Group, after: number, last: number): ReadonlyArray<StoredLetter> =>
    store.database
      .sql<readonly [number, ...MessageColumns]>(
        `SELECT seq, ${columns} FROM millrace_letter WHERE topic = ? AND grp = ? AND seq > ? AND seq <= ?
         ORDER BY seq LIMIT ${page}`
      )
      .all(toText(topic), toText(group), after, last)
      .map(([seq, attempt, version, timestamp, id, key, meta, body]) => ({
        position: String(seq),
        message: { envelope: toEnvelope(topic, attempt, version, timestamp, id, key, meta), body }
      }))

  const lastOf = ({ group, topic }: Group): number =>
    store.database
      .sql<readonly [number | null]>("SELECT max(seq) FROM millrace_letter WHERE topic = ? AND grp = ?")
      .get(toText(topic), toText(group))?.[0] ?? -1

  const removeOne = (store: Store, { group, topic }: Group, position: string): boolean =>
    store.database
      .sql("DELETE FROM millrace_letter WHERE seq = ? AND topic = ? AND grp = ?")
      .run(seqOf(position), toText(topic), toText(group)) === 1

  return {
    read: (group, after) => {
      const about = { operation: "deadLetters.read", topic: group.topic }
      // What dies while it is read is not part of it.
      return Stream.unwrap(
        Effect.map(
          reading(pump, about, () => lastOf(group)),
          (last) =>
            Stream.paginate(after === undefined ? -1 : seqOf(after), (position) =>
              Effect.map(
                reading(pump, about, () => readPage(group, position, last)),
                (letters) => {
                  const end = letters.at(-1)
                  return [
                    letters,
                    letters.length < page || end === undefined
                      ? Option.none<number>()
                      : Option.some(seqOf(end.position))
                  ] as const
                }
              )
            )
        )
      )
    },
    remove: (group, positions) => {
      const about = { operation: "deadLetters.remove", topic: group.topic }
      return pump.outsideTransaction(
        about,
        pump.request(
          about,
          { weight: positions.length },
          (store) => positions.filter((position) => removeOne(store, group, position)).length
        )
      )
    },
    move: (group, position, message) => {
      const about = { operation: "deadLetters.move", topic: group.topic, ids: [message.envelope.id] }
      const problem = fits(about, message, maxMessageBytes)
      if (problem !== undefined) return Effect.succeed({ _tag: "Failed", error: problem })
      return pump.outsideTransaction(
        about,
        pump.request(about, { weight: 2, bytes: message.body.byteLength }, (store) => {
          const there = store.database
            .sql("SELECT 1 FROM millrace_letter WHERE seq = ? AND topic = ? AND grp = ?")
            .get(seqOf(position), toText(group.topic), toText(group.group))
          if (there === undefined) return { _tag: "Gone" } as const
          if (store.publish(message, true) === "NoGroup") {
            return { _tag: "Failed", error: noGroup(about, message) } as const
          }
          removeOne(store, group, position)
          return { _tag: "Confirmed" } as const
        })
      )
    },
    groups: (topic) =>
      reading(pump, { operation: "deadLetters.groups", topic }, () =>
        store.database
          .sql<readonly [string]>("SELECT DISTINCT grp FROM millrace_letter WHERE topic = ? ORDER BY grp")
          .all(toText(topic))
          .map(([group]) => fromText(group))
      )
  }
}
