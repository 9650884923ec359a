/**
 * What waits for a group, without going through it.
 */
import type { Backlog, Group } from "../../../messaging/Driver.ts"
import type { Store } from "./Store.ts"

/** Delayed and parked messages have no order of age, so this many of them are looked at. */
const mostLooked = 10_000
/** Ready messages have one in each priority; more priorities than this are not looked at. */
const mostPriorities = 1_000

export const backlogOf = (store: Store, { group, topic }: Group): Backlog => {
  const { database } = store
  const queue = store.queue(topic, group)
  if (queue === undefined) return { waiting: 0, delayed: 0, inFlight: 0, oldest: undefined }
  const [size] = database.sql<readonly [number]>("SELECT size FROM millrace_queue WHERE id = ?").get(queue) ?? [0]
  const [inFlight] = database
    .sql<readonly [number]>(
      `SELECT count(*) FROM millrace_subscriber s JOIN millrace_message m ON m.state = 1 AND m.owner = s.owner
       WHERE s.queue = ?`
    )
    .get(queue) ?? [0]
  // What a new group is still to be given from the log.
  const [unread] = database
    .sql<readonly [number]>(
      `SELECT count(*) FROM millrace_queue q JOIN millrace_log l
       ON l.topic = q.topic AND l.seq BETWEEN q.fill_next AND q.fill_end WHERE q.id = ?`
    )
    .get(queue) ?? [0]
  const [delayed] = database
    .sql<readonly [number]>("SELECT count(*) FROM millrace_message WHERE queue = ? AND state = 2")
    .get(queue) ?? [0]
  return { waiting: Math.max(0, size - inFlight) + unread, delayed, inFlight, oldest: oldestOf(store, queue) }
}

/** Milliseconds since the oldest of those that were looked at was published; rows are numbered in that order. */
const oldestOf = ({ clock, database }: Store, queue: number): number | undefined => {
  const numbers: Array<number> = []
  const firstReady = database.sql<readonly [priority: number, seq: number]>(
    `SELECT priority, seq FROM millrace_message WHERE queue = ? AND state = 0 AND priority < ?
     ORDER BY priority DESC, seq LIMIT 1`
  )
  let below = Number.POSITIVE_INFINITY
  for (let i = 0; i < mostPriorities; i++) {
    const row = firstReady.get(queue, below)
    if (row === undefined) break
    below = row[0]
    numbers.push(row[1])
  }
  for (const state of [2, 3]) {
    const first = database
      .sql<readonly [number | null]>(
        `SELECT min(seq) FROM
          (SELECT seq FROM millrace_message WHERE queue = ? AND state = ${state} LIMIT ${mostLooked})`
      )
      .get(queue)?.[0]
    if (typeof first === "number") numbers.push(first)
  }
  if (numbers.length === 0) return undefined
  const published = database
    .sql<readonly [number]>("SELECT timestamp FROM millrace_message WHERE seq = ?")
    .get(Math.min(...numbers))?.[0]
  return published === undefined ? undefined : Math.max(0, clock.wall() - published)
}
