/**
 * What one connection does inside a write transaction: the file's counter and clock, topics, groups, and publishing.
 *
 * Everything here is synchronous and throws what `node:sqlite` throws; the transaction belongs to the caller. What is kept in
 * memory is only a copy, which is thrown away with a transaction that is rolled back.
 */
import type { OutgoingMessage } from "../../../messaging/Driver.ts"
import type { Database } from "./Database.ts"
import type { FileClock } from "./FileClock.ts"
import { toColumns, toText } from "./Rows.ts"

/** The states of a row; the partial indexes name them by number. */
export const State = { ready: 0, owned: 1, delayed: 2, parked: 3 } as const

/** A topic as this connection knows it. */
export interface Topic {
  readonly id: number
  /** The queues of its groups; or the one that keeps what comes while it has none. */
  readonly queues: ReadonlyArray<number>
  /** Milliseconds for which a copy is kept for groups to come. */
  readonly retention: number | undefined
}

export interface StoreOptions {
  /** Milliseconds for which an id is remembered; `undefined` where duplicates are not looked for. */
  readonly dedupeWindow: number | undefined
}

const insertMessage = `
  INSERT INTO millrace_message
    (seq, queue, state, owner, priority, visible_at, deliveries, attempt, version, timestamp, id, key, meta, body)
  VALUES (?, ?, ?, 0, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?)`

export class Store {
  readonly database: Database
  readonly clock: FileClock
  /** The time of the file in this transaction. */
  now = 0
  /** Counts the transactions, so that what happened in the one that is open can be told from what happened before. */
  transaction = 0
  /** The queues that have got something ready in this transaction. */
  readonly touched = new Set<number>()
  private readonly options: StoreOptions
  private next = 0
  private stored = 0
  private topology = -1
  private readonly topics = new Map<string, Topic>()
  /** By how many rows the queues have grown in this transaction. */
  private readonly grown = new Map<number, number>()

  constructor(database: Database, clock: FileClock, options: StoreOptions) {
    this.database = database
    this.clock = clock
    this.options = options
  }

  /** Reads the file's row; to be called when the transaction has the write lock. */
  enter(): void {
    const { database } = this
    this.transaction++
    const row = database
      .sql<readonly [number, number, number, number]>(
        "SELECT next, topology, clock_offset, clock_seen FROM millrace_meta WHERE id = 1"
      )
      .get()
    if (row === undefined) throw new Error("the tables of Millrace are not in the file any more")
    const [next, topology, offset, seen] = row
    this.next = next
    this.stored = next
    this.touched.clear()
    this.grown.clear()
    if (topology !== this.topology) {
      this.topics.clear()
      this.topology = topology
    }
    const clock = this.clock.read({ offset, seen })
    this.now = this.clock.now()
    if (clock === undefined) return
    database.sql("UPDATE millrace_meta SET clock_offset = ?, clock_seen = ? WHERE id = 1").run(clock.offset, clock.seen)
    if (clock.jump > 0) database.sql("UPDATE millrace_subscriber SET lease_end = lease_end + ?").run(clock.jump)
  }

  /** Writes what has to be in the file before the commit. */
  leave(): void {
    for (const [queue, rows] of this.grown) {
      this.database.sql("UPDATE millrace_queue SET size = size + ? WHERE id = ?").run(rows, queue)
    }
    this.grown.clear()
    if (this.next === this.stored) return
    this.database.sql("UPDATE millrace_meta SET next = ? WHERE id = 1").run(this.next)
    this.stored = this.next
  }

  /** The transaction was rolled back, or may be by whoever opened it: what it has taught is forgotten. */
  forget(): void {
    this.topology = -1
    this.topics.clear()
    this.touched.clear()
  }

  /** A number that nothing in the file has had before. */
  number(): number {
    return this.next++
  }

  /** Counts rows that were added to a queue, or with a negative number removed from it. */
  grow(queue: number, rows: number): void {
    this.grown.set(queue, (this.grown.get(queue) ?? 0) + rows)
  }

  /** Reserves as many numbers, and answers the first. */
  numbers(count: number): number {
    const first = this.next
    this.next += count
    return first
  }

  /** Something about topics or groups has changed, for all processes. */
  topologyChanged(): void {
    this.database.sql("UPDATE millrace_meta SET topology = topology + 1 WHERE id = 1").run()
    // Read anew by the next transaction: this one may be rolled back.
    this.topology = -1
    this.topics.clear()
  }

  /** The topic, which is created where it does not exist. */
  topic(name: string): Topic {
    const known = this.topics.get(name)
    if (known !== undefined) return known
    const text = toText(name)
    const row = this.database
      .sql<readonly [number, number | null]>("SELECT id, retention FROM millrace_topic WHERE name = ?")
      .get(text)
    const id = row?.[0] ?? this.number()
    if (row === undefined) {
      this.database.sql("INSERT INTO millrace_topic (id, name) VALUES (?, ?)").run(id, text)
      this.topologyChanged()
    }
    const queues = this.database
      .sql<readonly [number, string | null]>("SELECT id, grp FROM millrace_queue WHERE topic = ?")
      .all(id)
    const groups = queues.filter(([, group]) => group !== null).map(([queue]) => queue)
    const topic: Topic = {
      id,
      queues: groups.length > 0 ? groups : queues.map(([queue]) => queue),
      retention: row?.[1] ?? undefined
    }
    if (this.topology !== -1) this.topics.set(name, topic)
    return topic
  }

  /** The queue of a group, where the group exists. */
  queue(topic: string, group: string): number | undefined {
    return this.database
      .sql<readonly [number]>(
        `SELECT q.id FROM millrace_topic t JOIN millrace_queue q ON q.topic = t.id WHERE t.name = ? AND q.grp = ?`
      )
      .get(toText(topic), toText(group))?.[0]
  }

  addQueue(topic: number, group: string | null): number {
    const id = this.number()
    this.database.sql("INSERT INTO millrace_queue (id, topic, grp) VALUES (?, ?, ?)").run(id, topic, group)
    this.topologyChanged()
    return id
  }

  /** Writes one message to where it goes. `replayed` messages are not looked for under their id. */
  publish(message: OutgoingMessage, replayed = false): "Confirmed" | "Duplicate" | "NoGroup" {
    const { destination } = message
    switch (destination._tag) {
      case "DeadLetters":
        this.insertLetter(destination.topic, destination.group, message)
        return "Confirmed"
      case "Group": {
        const queue = this.queue(destination.topic, destination.group)
        if (queue === undefined) return "NoGroup"
        this.insert(queue, message)
        return "Confirmed"
      }
      case "Topic": {
        let topic = this.topic(destination.topic)
        if (!replayed && this.wasSeen(topic.id, message.envelope.id)) return "Duplicate"
        if (topic.queues.length === 0) {
          this.addQueue(topic.id, null)
          topic = this.topic(destination.topic)
        }
        for (const queue of topic.queues) this.insert(queue, message)
        if (topic.retention !== undefined) this.insertLog(topic.id, message)
        return "Confirmed"
      }
    }
  }

  private insert(queue: number, { body, delay = 0, envelope, priority = 0 }: OutgoingMessage): void {
    const delayed = delay > 0
    this.database
      .sql(insertMessage)
      .run(
        this.number(),
        queue,
        delayed ? State.delayed : State.ready,
        priority,
        delayed ? Math.ceil(this.now + delay) : 0,
        ...toColumns(envelope),
        body
      )
    this.grow(queue, 1)
    // The waiting consumers learn of delayed ones too: they have to know when to wake up.
    this.touched.add(queue)
  }

  private insertLog(topic: number, { body, delay = 0, envelope, priority = 0 }: OutgoingMessage): void {
    this.database
      .sql(
        `INSERT INTO millrace_log
          (seq, topic, at, priority, visible_at, attempt, version, timestamp, id, key, meta, body)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
      )
      .run(
        this.number(),
        topic,
        this.now,
        priority,
        delay > 0 ? Math.ceil(this.now + delay) : 0,
        ...toColumns(envelope),
        body
      )
  }

  private insertLetter(topic: string, group: string, { body, envelope }: OutgoingMessage): void {
    this.database
      .sql(
        `INSERT INTO millrace_letter (seq, topic, grp, attempt, version, timestamp, id, key, meta, body)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
      )
      .run(this.number(), toText(topic), toText(group), ...toColumns(envelope), body)
  }

  /**
   * Remembers the id; answers whether it was there. Ids lie in buckets of one window each, so that old ones are deleted as a
   * range, and are looked for in the last two.
   */
  private wasSeen(topic: number, id: string): boolean {
    const { dedupeWindow } = this.options
    if (dedupeWindow === undefined) return false
    const bucket = Math.floor(this.now / dedupeWindow)
    const text = toText(id)
    const before = this.database
      .sql("SELECT 1 FROM millrace_seen WHERE bucket = ? AND topic = ? AND id = ?")
      .get(bucket - 1, topic, text)
    if (before !== undefined) return true
    return (
      this.database
        .sql("INSERT OR IGNORE INTO millrace_seen (bucket, topic, id) VALUES (?, ?, ?)")
        .run(bucket, topic, text) === 0
    )
  }
}
