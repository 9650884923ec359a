/**
 * Handing out and settling messages, as statements of one write transaction.
 *
 * A row is owned by a subscription for as long as the lease of that subscription lasts, so renewing costs one row however
 * many it holds, and `owner = ?` fences every settlement.
 */
import type { Settlement } from "../../../messaging/Driver.ts"
import { columns, toColumns, toText } from "./Rows.ts"
import type { Store } from "./Store.ts"
import { State } from "./Store.ts"

/** A message as it was claimed. */
export type ClaimedRow = readonly [
  seq: number,
  deliveries: number,
  attempt: number,
  version: number,
  timestamp: number,
  id: string,
  key: string | null,
  meta: string | null,
  body: Uint8Array
]

export interface Claim {
  readonly queue: number
  readonly owner: number
  readonly count: number
  readonly maxBytes: number
  readonly order: "key" | "none"
  /** Most messages of one key that the owner may hold, and how many it holds of each. */
  readonly perKey: number
  readonly held: Map<string, number>
}

export interface ClaimResult {
  readonly rows: ReadonlyArray<ClaimedRow>
  /** There may be more for this claim, which was not looked at to keep the transaction short. */
  readonly more: boolean
  /** When the next delayed message is due, in the time of the file. */
  readonly due: number | undefined
}

/** How many delayed messages become ready in one claim. */
const mostDue = 500
/** How many blocked messages a claim sets aside. */
const mostParked = 256
/** How many messages a claim passes by that belong to others. */
const mostSkipped = 10_000
/** How many messages behind the end of a blocker become ready. */
const mostPromoted = 64

const readySql = `SELECT seq, deliveries, ${columns} FROM millrace_message
  WHERE queue = ? AND state = 0 ORDER BY priority DESC, seq`

/** Finds what can be handed out now, and marks it as owned. The subscriber's row is the caller's. */
export const claim = (store: Store, claim: Claim): ClaimResult => {
  const { count, held, maxBytes, order, owner, perKey, queue } = claim
  const { database } = store
  const due = promoteDue(store, queue)
  if (count <= 0) return { rows: [], more: false, due: due.next }
  const standing = order === "key" ? standingOfKeys(store, queue, owner) : undefined
  const rows: Array<ClaimedRow> = []
  const parked: Array<number> = []
  let bytes = 0
  let skipped = 0
  for (const row of database.sql<ClaimedRow>(readySql).iterate(queue)) {
    const [seq, , , , , , key, , body] = row
    const ofKey = key === null ? 0 : (held.get(key) ?? 0)
    const stands = key === null ? "free" : ofKey >= perKey ? "behind" : (standing?.(key, seq) ?? "free")
    if (stands === "behind") {
      if (parked.push(seq) === mostParked) break
    } else if (stands === "elsewhere") {
      if (++skipped === mostSkipped) break
    } else {
      bytes += body.byteLength
      if (rows.length > 0 && bytes > maxBytes) break
      if (key !== null) held.set(key, ofKey + 1)
      if (rows.push(row) === count) break
    }
  }
  if (parked.length > 0) {
    const park = database.sql(`UPDATE millrace_message SET state = ${State.parked} WHERE seq = ?`)
    for (const seq of parked) park.run(seq)
  }
  const own = database.sql(
    `UPDATE millrace_message SET state = ${State.owned}, owner = ?, deliveries = deliveries + 1 WHERE seq = ?`
  )
  for (const row of rows) own.run(owner, row[0])
  return { rows, more: due.more || parked.length === mostParked, due: due.next }
}

/** Makes delayed messages ready whose time has come. */
const promoteDue = (store: Store, queue: number): { readonly next: number | undefined; readonly more: boolean } => {
  const nextDue = store.database.sql<readonly [number]>(
    `SELECT visible_at FROM millrace_message WHERE queue = ? AND state = ${State.delayed} ORDER BY visible_at LIMIT 1`
  )
  const next = nextDue.get(queue)?.[0]
  if (next === undefined || next > store.now) return { next, more: false }
  const promoted = store.database.change(
    `SELECT seq FROM millrace_message WHERE queue = ? AND state = 2 AND visible_at <= ?
     ORDER BY visible_at LIMIT ${mostDue}`,
    [queue, store.now],
    `UPDATE millrace_message SET state = ${State.ready}, visible_at = 0 WHERE seq = ?`
  )
  return { next: nextDue.get(queue)?.[0], more: promoted === mostDue }
}

/**
 * How a ready message of a key stands under order "key".
 *
 * - `free`: it can be handed out.
 * - `behind`: an earlier message of its key is delayed, set aside, or owned by another subscription, or this one holds as many
 *   of the key as it may. It is set aside, so that no claim meets it again before the others have ended.
 * - `elsewhere`: only later messages of its key are owned by another subscription, which is where it belongs: it was given
 *   back there and is to be read there again.
 */
type Standing = "free" | "behind" | "elsewhere"

/** Answers for each key with one look; `undefined` where nothing can stand in the way, which is usual. */
const standingOfKeys = (
  { database }: Store,
  queue: number,
  owner: number
): ((key: string, seq: number) => Standing) | undefined => {
  const exists = (sql: string, ...params: ReadonlyArray<number>) => database.sql(sql).get(...params) !== undefined
  const hasParked = exists("SELECT 1 FROM millrace_message WHERE queue = ? AND state = 3 LIMIT 1", queue)
  const hasDelayed = exists("SELECT 1 FROM millrace_message WHERE queue = ? AND state = 2 LIMIT 1", queue)
  const hasOthers = exists("SELECT 1 FROM millrace_subscriber WHERE queue = ? AND owner <> ? LIMIT 1", queue, owner)
  if (!hasParked && !hasDelayed && !hasOthers) return undefined
  const firstBlocking = database.sql<readonly [number]>(
    `SELECT seq FROM millrace_message
     WHERE queue = ? AND key = ? AND state IN (1, 2) AND owner <> ? ORDER BY seq LIMIT 1`
  )
  const firstParked = database.sql<readonly [number]>(
    "SELECT seq FROM millrace_message WHERE queue = ? AND key = ? AND state = 3 ORDER BY seq LIMIT 1"
  )
  const ownedElsewhere = database.sql(
    "SELECT 1 FROM millrace_message WHERE queue = ? AND key = ? AND state IN (1, 2) AND owner NOT IN (0, ?) LIMIT 1"
  )
  const known = new Map<string, { readonly first: number; readonly elsewhere: boolean }>()
  return (key, seq) => {
    let blocking = known.get(key)
    if (blocking === undefined) {
      const first = Math.min(
        firstBlocking.get(queue, key, owner)?.[0] ?? Number.POSITIVE_INFINITY,
        (hasParked ? firstParked.get(queue, key)?.[0] : undefined) ?? Number.POSITIVE_INFINITY
      )
      blocking = { first, elsewhere: hasOthers && ownedElsewhere.get(queue, key, owner) !== undefined }
      known.set(key, blocking)
    }
    if (blocking.first < seq) return "behind"
    return blocking.elsewhere ? "elsewhere" : "free"
  }
}

/** A message that a settlement is about. */
export interface Owned {
  readonly queue: number
  readonly owner: number
  readonly seq: number
}

/** Carries out one settlement; answers whether the message was still owned. */
export const settle = (store: Store, { owner, queue, seq }: Owned, settlement: Settlement): boolean => {
  const { database } = store
  switch (settlement._tag) {
    case "Acknowledge": {
      const deleted = database.sql("DELETE FROM millrace_message WHERE seq = ? AND owner = ?").run(seq, owner)
      store.grow(queue, -deleted)
      return deleted === 1
    }
    case "Release":
      // Whoever settles is alive, so it was not this message that killed somebody.
      return releaseAnew(store, queue, owner, seq)
    case "Abandon":
      // Its row stays with its owner, whose lease nobody renews any more.
      return true
    case "Retry": {
      const delayed = settlement.delay > 0
      store.touched.add(queue)
      return (
        database
          .sql(
            `UPDATE millrace_message SET state = ?, owner = 0, deliveries = 0, visible_at = ?,
              attempt = ?, version = ?, timestamp = ?, id = ?, key = ?, meta = ? WHERE seq = ? AND owner = ?`
          )
          .run(
            delayed ? State.delayed : State.ready,
            delayed ? Math.ceil(store.now + settlement.delay) : 0,
            ...toColumns(settlement.envelope),
            seq,
            owner
          ) === 1
      )
    }
  }
}

/** Puts a message back at its place. */
export const release = (store: Store, queue: number, owner: number, seq: number): boolean => {
  store.touched.add(queue)
  return (
    store.database
      .sql(`UPDATE millrace_message SET state = ${State.ready}, owner = 0 WHERE seq = ? AND owner = ?`)
      .run(seq, owner) === 1
  )
}

/** The same by somebody who has settled it, with its deliveries counted anew. */
const releaseAnew = (store: Store, queue: number, owner: number, seq: number): boolean => {
  store.touched.add(queue)
  return (
    store.database
      .sql(`UPDATE millrace_message SET state = ${State.ready}, owner = 0, deliveries = 0 WHERE seq = ? AND owner = ?`)
      .run(seq, owner) === 1
  )
}

/** The end of messages with these keys: what was set aside behind them is ready, where nothing else stands in the way. */
export const unblock = (store: Store, queue: number, keys: Iterable<string>, most = mostPromoted): void => {
  if (
    store.database.sql("SELECT 1 FROM millrace_message WHERE queue = ? AND state = 3 LIMIT 1").get(queue) === undefined
  )
    return
  for (const key of keys) promote(store, queue, toText(key), most)
}

const promote = (store: Store, queue: number, key: string, most: number): void => {
  const { database } = store
  const first = database
    .sql<readonly [number]>(
      "SELECT seq FROM millrace_message WHERE queue = ? AND key = ? AND state = 3 ORDER BY seq LIMIT 1"
    )
    .get(queue, key)?.[0]
  if (first === undefined) return
  const blocking = database
    .sql("SELECT 1 FROM millrace_message WHERE queue = ? AND key = ? AND state IN (1, 2) AND seq < ? LIMIT 1")
    .get(queue, key, first)
  if (blocking !== undefined) return
  database.change(
    `SELECT seq FROM millrace_message WHERE queue = ? AND key = ? AND state = 3 ORDER BY seq LIMIT ?`,
    [queue, key, Math.min(most, mostPromoted)],
    `UPDATE millrace_message SET state = ${State.ready} WHERE seq = ?`
  )
  store.touched.add(queue)
}

/** How many keys {@link repair} looks at in one go. */
const mostRepaired = 100

/** The queues in which messages are set aside. */
export const queuesWithParked = (store: Store): ReadonlyArray<number> =>
  store.database
    .sql<readonly [number]>(
      `SELECT id FROM millrace_queue q
       WHERE EXISTS (SELECT 1 FROM millrace_message m WHERE m.queue = q.id AND m.state = 3)`
    )
    .all()
    .map(([queue]) => queue)

/**
 * Makes messages ready that are set aside behind nothing, which happens where somebody has changed the tables by hand. Looks
 * at some keys after the given one; answers the last of them, or `undefined` at the end.
 */
export const repair = (store: Store, queue: number, after: string | undefined): string | undefined => {
  const nextKey = (than: ">" | ">=", key: string) =>
    store.database
      .sql<readonly [string]>(
        `SELECT key FROM millrace_message WHERE queue = ? AND state = 3 AND key ${than} ? ORDER BY key LIMIT 1`
      )
      .get(queue, key)?.[0]
  let key = after === undefined ? nextKey(">=", "") : nextKey(">", after)
  for (let i = 1; key !== undefined && i < mostRepaired; i++) {
    promote(store, queue, key, mostPromoted)
    key = nextKey(">", key)
  }
  if (key !== undefined) promote(store, queue, key, mostPromoted)
  return key
}

/** Extends the lease of an owner to this time of the file at least; answers whether it still had one. */
export const extendLease = (store: Store, owner: number, end: number): boolean =>
  store.database.sql("UPDATE millrace_subscriber SET lease_end = max(lease_end, ?) WHERE owner = ?").run(end, owner) ===
  1

/** A new owner for a queue. */
export const addOwner = (store: Store, queue: number, end: number, process: string): number => {
  const owner = store.number()
  store.database
    .sql("INSERT INTO millrace_subscriber (owner, queue, lease_end, process) VALUES (?, ?, ?, ?)")
    .run(owner, queue, end, process)
  return owner
}

/** Gives back all that an owner holds, and ends its lease. */
export const removeOwner = (store: Store, owner: number): void => {
  const queue = store.database
    .sql<readonly [number]>("SELECT queue FROM millrace_subscriber WHERE owner = ?")
    .get(owner)?.[0]
  if (queue === undefined) return
  const released = store.database
    .sql(`UPDATE millrace_message SET state = ${State.ready}, owner = 0 WHERE state = 1 AND owner = ?`)
    .run(owner)
  store.database.sql("DELETE FROM millrace_subscriber WHERE owner = ?").run(owner)
  if (released > 0) store.touched.add(queue)
}

/** Owners whose lease has ended. Needs no transaction. */
export const expiredOwners = (store: Store, now: number): ReadonlyArray<number> =>
  store.database
    .sql<readonly [number]>("SELECT owner FROM millrace_subscriber WHERE lease_end < ?")
    .all(now)
    .map(([owner]) => owner)
