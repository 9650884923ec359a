/**
 * Topics and groups in the file: where a new group begins, and how one is removed, piece by piece where there is much to do.
 */
import { toText } from "./Rows.ts"
import type { Store } from "./Store.ts"
import { State } from "./Store.ts"

export type Replay = "earliest" | Date | undefined

/** How many rows are copied or deleted in one transaction: some milliseconds of work. */
const chunk = 500

const groupless = (store: Store, topic: number): number | undefined =>
  store.database.sql<readonly [number]>("SELECT id FROM millrace_queue WHERE topic = ? AND grp IS NULL").get(topic)?.[0]

const hasGroups = (store: Store, topic: number): boolean =>
  store.database.sql("SELECT 1 FROM millrace_queue WHERE topic = ? AND grp IS NOT NULL LIMIT 1").get(topic) !==
  undefined

/**
 * Creates the group unless it exists, and answers its queue.
 *
 * The first group of a topic takes over what the topic has kept, by giving that queue its name. A later one begins with what
 * is published from now on, or with `replay` with what the topic's log still has.
 */
export const ensureGroup = (store: Store, topicName: string, group: string, replay: Replay): number => {
  const existing = store.queue(topicName, group)
  if (existing !== undefined) return existing
  const topic = store.topic(topicName)
  const kept = groupless(store, topic.id)
  const from = replay instanceof Date ? replay.getTime() : Number.MIN_SAFE_INTEGER
  const isFirst = !hasGroups(store, topic.id)
  const takesOver = kept !== undefined && (isFirst || (replay !== undefined && topic.retention === undefined))
  if (takesOver && !(replay instanceof Date)) {
    store.database.sql("UPDATE millrace_queue SET grp = ? WHERE id = ?").run(toText(group), kept)
    store.topologyChanged()
    return kept
  }
  const queue = store.addQueue(topic.id, toText(group))
  if (takesOver) {
    // From the first message of that time on; what is older stays where it is, for a group that asks for it.
    const moved = store.database
      .sql(
        `UPDATE millrace_message SET queue = ?1 WHERE queue = ?2
         AND seq >= (SELECT min(seq) FROM millrace_message WHERE queue = ?2 AND timestamp >= ?3)`
      )
      .run(queue, kept, from)
    store.grow(queue, moved)
    store.grow(kept, -moved)
  } else if (replay !== undefined && topic.retention !== undefined) {
    planFill(store, topic.id, queue, from)
  }
  return queue
}

/**
 * Creates the groups. Those that are named together for a topic which has had none get each what the topic has kept.
 */
export const ensureGroups = (store: Store, topicName: string, groups: ReadonlyArray<string>): void => {
  const topic = store.topic(topicName)
  const kept = hasGroups(store, topic.id) ? undefined : groupless(store, topic.id)
  const [first, ...others] = new Set(groups)
  if (first === undefined) return
  ensureGroup(store, topicName, first, undefined)
  for (const group of others) {
    const isNew = store.queue(topicName, group) === undefined
    const queue = ensureGroup(store, topicName, group, undefined)
    if (isNew && kept !== undefined) copyQueue(store, kept, queue)
  }
}

const copyQueue = (store: Store, from: number, to: number): void => {
  const [count] = store.database
    .sql<readonly [number]>("SELECT count(*) FROM millrace_message WHERE queue = ?")
    .get(from) ?? [0]
  store.database
    .sql(
      `INSERT INTO millrace_message
        (seq, queue, state, owner, priority, visible_at, deliveries, attempt, version, timestamp, id, key, meta, body)
       SELECT ? + row_number() OVER (ORDER BY seq), ?, state, 0, priority, visible_at, 0,
        attempt, version, timestamp, id, key, meta, body
       FROM millrace_message WHERE queue = ?`
    )
    .run(store.numbers(count) - 1, to, from)
  store.grow(to, count)
}

/**
 * Notes what is to be copied from the log. The copies get numbers that are reserved now, so that they come before what is
 * published from now on; nothing is handed out before the last of them is there.
 */
const planFill = (store: Store, topic: number, queue: number, from: number): void => {
  const log = "millrace_log INDEXED BY millrace_log_topic"
  const first = store.database
    .sql<readonly [number]>(`SELECT seq FROM ${log} WHERE topic = ? AND timestamp >= ? ORDER BY seq LIMIT 1`)
    .get(topic, from)?.[0]
  if (first === undefined) return
  const [count, last] = store.database
    .sql<readonly [number, number]>(`SELECT count(*), max(seq) FROM ${log} WHERE topic = ? AND seq >= ?`)
    .get(topic, first) ?? [0, 0]
  store.database
    .sql("UPDATE millrace_queue SET fill_next = ?, fill_end = ?, fill_seq = ? WHERE id = ?")
    .run(first, last, store.numbers(count), queue)
}

/** Copies a piece of what a new group is to read again; answers whether there is more. */
export const fill = (store: Store, queue: number): boolean => {
  const row = store.database
    .sql<readonly [topic: number, next: number, end: number, seq: number]>(
      "SELECT topic, fill_next, fill_end, fill_seq FROM millrace_queue WHERE id = ? AND fill_next IS NOT NULL"
    )
    .get(queue)
  if (row === undefined) return false
  const [topic, next, end, seq] = row
  const last = store.database
    .sql<readonly [number | null, number]>(
      `SELECT max(seq), count(*) FROM
        (SELECT seq FROM millrace_log WHERE topic = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ${chunk})`
    )
    .get(topic, next, end)
  const [until, count] = last ?? [null, 0]
  if (until !== null) {
    store.database
      .sql(
        `INSERT INTO millrace_message
          (seq, queue, state, owner, priority, visible_at, deliveries, attempt, version, timestamp, id, key, meta, body)
         SELECT ? + row_number() OVER (ORDER BY seq), ?, CASE WHEN visible_at > ? THEN ${State.delayed} ELSE ${State.ready} END,
          0, priority, visible_at, 0, attempt, version, timestamp, id, key, meta, body
         FROM millrace_log WHERE topic = ? AND seq BETWEEN ? AND ?`
      )
      .run(seq - 1, queue, store.now, topic, next, until)
    store.grow(queue, count)
  }
  const more = until !== null && until < end
  store.database
    .sql("UPDATE millrace_queue SET fill_next = ?, fill_seq = ? WHERE id = ?")
    .run(more ? until + 1 : null, seq + count, queue)
  if (!more) store.touched.add(queue)
  return more
}

/** Takes the group out of its topic; what waited for it is deleted by {@link clear}. */
export const removeGroup = (store: Store, topic: string, group: string): number | undefined => {
  const queue = store.queue(topic, group)
  if (queue === undefined) return undefined
  store.database.sql("UPDATE millrace_queue SET topic = NULL, grp = NULL, fill_next = NULL WHERE id = ?").run(queue)
  store.topologyChanged()
  return queue
}

/** Queues that were removed and not yet cleared, by a process that died meanwhile. */
export const removedQueues = (store: Store): ReadonlyArray<number> =>
  store.database
    .sql<readonly [number]>("SELECT id FROM millrace_queue WHERE topic IS NULL")
    .all()
    .map(([queue]) => queue)

/** Deletes a piece of what waited for a removed group; answers whether there is more. */
export const clear = (store: Store, queue: number): boolean => {
  for (const state of [State.ready, State.delayed, State.parked]) {
    const deleted = store.database.change(
      `SELECT seq FROM millrace_message WHERE queue = ? AND state = ${state} LIMIT ${chunk}`,
      [queue],
      "DELETE FROM millrace_message WHERE seq = ?"
    )
    if (deleted > 0) return true
  }
  const owners = store.database
    .sql<readonly [number]>("SELECT owner FROM millrace_subscriber WHERE queue = ?")
    .all(queue)
  for (const [owner] of owners) {
    store.database.sql("DELETE FROM millrace_message WHERE state = 1 AND owner = ?").run(owner)
    store.database.sql("DELETE FROM millrace_subscriber WHERE owner = ?").run(owner)
  }
  store.database.sql("DELETE FROM millrace_queue WHERE id = ?").run(queue)
  return false
}

/** The groups of a topic. */
export const groupsOf = (store: Store, topic: string): ReadonlyArray<string> =>
  store.database
    .sql<readonly [string]>(
      `SELECT q.grp FROM millrace_topic t JOIN millrace_queue q ON q.topic = t.id
       WHERE t.name = ? AND q.grp IS NOT NULL ORDER BY q.id`
    )
    .all(toText(topic))
    .map(([group]) => group)

/** Keeps a copy of what is published to the topic for as many milliseconds; 0 keeps none any more. */
export const setRetention = (store: Store, topicName: string, millis: number): void => {
  const { id, retention } = store.topic(topicName)
  const value = millis > 0 ? millis : null
  if ((retention ?? null) === value) return
  store.database.sql("UPDATE millrace_topic SET retention = ? WHERE id = ?").run(value, id)
  store.topologyChanged()
}
