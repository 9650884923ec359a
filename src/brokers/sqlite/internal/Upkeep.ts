/**
 * What has to be done from time to time, whoever does it: leases that have ended, ids and logs that are old enough, groups
 * that were removed, messages that wait for nothing. Each in small pieces, so that others have their turn between them.
 */
import * as Effect from "effect/Effect"
import { expiredOwners, queuesWithParked, removeOwner, repair } from "./Claims.ts"
import type { Pump } from "./Pump.ts"
import type { Store } from "./Store.ts"
import { clear, removedQueues } from "./Topology.ts"

const chunk = 500

/** Gives back what crashed processes held, when their leases have ended. */
export const sweep = (pump: Pump): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { store } = pump
    if (expiredOwners(store, store.clock.now()).length === 0) return Effect.void
    return Effect.ignore(
      pump.request({ operation: "sweep" }, { weight: 64 }, (store) => {
        // The time that counts is that of the transaction.
        for (const owner of expiredOwners(store, store.now)) removeOwner(store, owner)
      })
    )
  })

/** Runs a piece of work again and again, until it says that nothing is left. */
const untilDone = (pump: Pump, operation: string, piece: (store: Store) => boolean): Effect.Effect<void> =>
  Effect.ignore(
    Effect.flatMap(pump.request({ operation }, { weight: chunk }, piece), (more) =>
      more ? untilDone(pump, operation, piece) : Effect.void
    )
  )

/** Deletes what waited for a removed group. */
export const clearQueue = (pump: Pump, queue: number): Effect.Effect<void> =>
  untilDone(pump, "removeGroup", (store) => clear(store, queue))

const forgetIds = (store: Store, dedupeWindow: number): boolean => {
  const bucket = Math.floor(store.now / dedupeWindow) - 1
  const deleted = store.database.change(
    `SELECT bucket, topic, id FROM millrace_seen WHERE bucket < ? LIMIT ${chunk}`,
    [bucket],
    "DELETE FROM millrace_seen WHERE bucket = ? AND topic = ? AND id = ?"
  )
  return deleted === chunk
}

/** Deletes from the logs what is older than their retention, and has been copied by the groups that read it again. */
const trimLogs = (store: Store): boolean => {
  const topics = store.database
    .sql<readonly [number, number]>("SELECT id, coalesce(retention, 0) FROM millrace_topic")
    .all()
  let more = false
  for (const [topic, retention] of topics) {
    const deleted = store.database.change(
      `SELECT seq FROM (SELECT seq, at FROM millrace_log WHERE topic = ?1 ORDER BY seq LIMIT ${chunk})
       WHERE at < ?2 AND seq < coalesce((SELECT min(fill_next) FROM millrace_queue WHERE topic = ?1), 9e18)`,
      [topic, store.now - retention],
      "DELETE FROM millrace_log WHERE seq = ?"
    )
    if (deleted === chunk) more = true
  }
  return more
}

/** Looks at the keys behind which messages are set aside, some in each transaction. */
const repairQueue = (pump: Pump, queue: number, after?: string): Effect.Effect<void> =>
  Effect.flatMap(
    Effect.option(pump.request({ operation: "upkeep" }, { weight: chunk }, (store) => repair(store, queue, after))),
    (last) => (last._tag === "Some" && last.value !== undefined ? repairQueue(pump, queue, last.value) : Effect.void)
  )

/** All of it, once. */
export const upkeep = (pump: Pump, dedupeWindow: number | undefined): Effect.Effect<void> =>
  Effect.gen(function* () {
    const { removed, withParked } = yield* pump.request({ operation: "upkeep" }, { weight: 1 }, (store) => ({
      removed: removedQueues(store),
      withParked: queuesWithParked(store)
    }))
    for (const queue of removed) yield* clearQueue(pump, queue)
    for (const queue of withParked) yield* repairQueue(pump, queue)
    if (dedupeWindow !== undefined) yield* untilDone(pump, "upkeep", (store) => forgetIds(store, dedupeWindow))
    yield* untilDone(pump, "upkeep", trimLogs)
  }).pipe(Effect.ignore)
