/**
 * The tables, and how a file of an older version gets them.
 *
 * All of it happens in one transaction that begins with the write lock, so processes that start at once wait for one of
 * them, and a crash leaves the version before.
 */
import type { Database } from "./Database.ts"

/**
 * Each brings a file from the version of its index to the next. What was released is never changed.
 *
 * A message has one row for each group; `queue` is the number of (topic, group), and the one without a group keeps what is
 * published to a topic that has none yet. Numbers of rows, queues, topics and owners come from one counter and are never
 * used again, so a number that somebody still remembers means nothing else. `size` counts the rows of a queue, because
 * counting a million of them takes a tenth of a second.
 */
const migrations: ReadonlyArray<string> = [
  `
  CREATE TABLE millrace_meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    next INTEGER NOT NULL,
    topology INTEGER NOT NULL,
    clock_offset INTEGER NOT NULL,
    clock_seen INTEGER NOT NULL
  );
  CREATE TABLE millrace_topic (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    retention INTEGER
  );
  CREATE TABLE millrace_queue (
    id INTEGER PRIMARY KEY,
    topic INTEGER,
    grp TEXT,
    size INTEGER NOT NULL DEFAULT 0,
    fill_next INTEGER,
    fill_end INTEGER,
    fill_seq INTEGER
  );
  CREATE UNIQUE INDEX millrace_queue_name ON millrace_queue (topic, grp);

  -- state: 0 ready, 1 owned, 2 delayed, 3 parked behind an earlier message of its key
  CREATE TABLE millrace_message (
    seq INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    state INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    priority REAL NOT NULL,
    visible_at INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    version INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    id TEXT NOT NULL,
    key TEXT,
    meta TEXT,
    body BLOB NOT NULL
  );
  CREATE INDEX millrace_ready ON millrace_message (queue, priority DESC, seq) WHERE state = 0;
  CREATE INDEX millrace_owned ON millrace_message (owner, seq) WHERE state = 1;
  CREATE INDEX millrace_delayed ON millrace_message (queue, visible_at) WHERE state = 2;
  CREATE INDEX millrace_blocking ON millrace_message (queue, key, seq, owner, state)
    WHERE state IN (1, 2) AND key IS NOT NULL;
  CREATE INDEX millrace_parked ON millrace_message (queue, key, seq) WHERE state = 3;

  CREATE TABLE millrace_subscriber (
    owner INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    lease_end INTEGER NOT NULL,
    process TEXT NOT NULL
  );

  CREATE TABLE millrace_seen (
    bucket INTEGER NOT NULL,
    topic INTEGER NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (bucket, topic, id)
  ) WITHOUT ROWID;

  CREATE TABLE millrace_log (
    seq INTEGER PRIMARY KEY,
    topic INTEGER NOT NULL,
    at INTEGER NOT NULL,
    priority REAL NOT NULL,
    visible_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    version INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    id TEXT NOT NULL,
    key TEXT,
    meta TEXT,
    body BLOB NOT NULL
  );
  CREATE INDEX millrace_log_topic ON millrace_log (topic, seq);

  CREATE TABLE millrace_letter (
    seq INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    grp TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    version INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    id TEXT NOT NULL,
    key TEXT,
    meta TEXT,
    body BLOB NOT NULL
  );
  CREATE INDEX millrace_letter_group ON millrace_letter (topic, grp, seq);
  `
]

/** The version that this program writes and reads. */
export const version = migrations.length

const hasTables = (database: Database): boolean =>
  database.db.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'millrace_meta'").get() !== undefined

const versionOf = (database: Database): number =>
  hasTables(database)
    ? Number(database.db.prepare("SELECT version FROM millrace_meta WHERE id = 1").get()?.version ?? 0)
    : 0

/**
 * Brings the file to this version and answers what it found: a number above {@link version} was left as it is. Throws what
 * `node:sqlite` throws, also when another process holds the write lock.
 */
export const migrate = (database: Database, wall: number, monotonic: number): number => {
  const { db } = database
  // Most starts find everything in place, and need no lock to see it.
  const before = versionOf(database)
  if (before >= version) return before
  db.exec("BEGIN IMMEDIATE")
  try {
    const found = versionOf(database)
    for (const sql of migrations.slice(found)) db.exec(sql)
    if (found === 0) {
      db.prepare("INSERT INTO millrace_meta VALUES (1, ?, 1, 1, ?, ?)").run(
        version,
        Math.floor(wall - monotonic),
        Math.floor(monotonic)
      )
    } else if (found < version) {
      db.prepare("UPDATE millrace_meta SET version = ? WHERE id = 1").run(version)
    }
    db.exec("COMMIT")
    return Math.max(found, version)
  } catch (error) {
    if (db.isTransaction) db.exec("ROLLBACK")
    throw error
  }
}
