/** What an operation costs does not grow with the backlog: asked of SQLite's own plans, not of a clock. */
import { DatabaseSync } from "node:sqlite"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { Settlement } from "../../../src/messaging/Driver.ts"
import { acknowledge, message, open, subscribe, take } from "./support.ts"

/** Collects the SQL that anybody prepares. */
const preparing = () => {
  const seen = new Set<string>()
  const { prepare } = DatabaseSync.prototype
  DatabaseSync.prototype.prepare = function (this: DatabaseSync, sql) {
    seen.add(sql)
    return prepare.call(this, sql)
  }
  return () => {
    DatabaseSync.prototype.prepare = prepare
    return seen
  }
}

/** Every operation once, in every way in which it is done. */
const everything = Effect.gen(function* () {
  const collected = preparing()
  const { driver, filename } = yield* open({ retention: { kept: "1 hour" }, dedupeWindow: "1 minute" })
  const there = yield* open({ filename })
  const keyed = (text: string, delay?: number) => message("t", text, { envelope: { key: "k" }, delay })
  yield* driver.declare({ topic: "kept", groups: ["g"] })
  yield* driver.publish([message("kept", "a")])
  const replaying = yield* subscribe(driver, { topic: "kept", group: "late", replay: "earliest" })
  yield* take(replaying)
  const a = yield* subscribe(driver, { order: "key", lease: 3_000 })
  const b = yield* subscribe(there.driver, { order: "key", lease: 3_000 })
  const plain = yield* subscribe(driver, { group: "plain" })
  yield* driver.publish([keyed("1"), keyed("2"), keyed("3"), message("t", "4"), keyed("5", 10)])
  const [one, two] = yield* take(a, 2)
  if (one === undefined || two === undefined) return yield* Effect.die("two were published")
  yield* take(b, 1)
  yield* a.renew([one, two])
  const settlements: ReadonlyArray<Settlement> = [
    { _tag: "Release", delivery: two },
    { _tag: "Retry", delivery: one, delay: 5, envelope: one.message.envelope }
  ]
  yield* a.settle(settlements)
  yield* TestClock.adjust("1 second")
  yield* acknowledge(a, yield* take(a))
  yield* acknowledge(plain, yield* take(plain))
  yield* driver.backlog({ topic: "t", group: "g" })
  yield* driver.groups("t")
  const destination = { _tag: "DeadLetters", topic: "t", group: "g" } as const
  yield* driver.publish([message("t", "dead", { destination })])
  const letters = driver.deadLetters
  const [letter] = yield* Stream.runCollect(letters?.read(destination) ?? Stream.empty)
  yield* letters?.move?.(destination, letter?.position ?? "", message("t", "dead")) ?? Effect.void
  yield* letters?.remove(destination, ["1"]) ?? Effect.void
  yield* letters?.groups("t") ?? Effect.void
  yield* TestClock.adjust("5 minutes")
  yield* Effect.promise(() => new Promise((resume) => setTimeout(resume, 20)))
  yield* driver.removeGroup({ topic: "t", group: "plain" })
  return { driver, filename, seen: collected() }
})

/** How a statement is carried out, a line for each step. */
const planOf = (db: DatabaseSync, sql: string): ReadonlyArray<string> =>
  db
    .prepare(`EXPLAIN QUERY PLAN ${sql}`)
    .all()
    .map((row) => String(row.detail))

/** Steps that go through a whole table, or sort what they have found. */
const isLong = (step: string): boolean =>
  /^SCAN millrace_(message|letter|log|seen)\b/.test(step) || step.includes("TEMP B-TREE FOR ORDER BY")

/** About one of the tables that grow. */
const grows = (sql: string): boolean =>
  /^\s*(SELECT|INSERT|UPDATE|DELETE)/.test(sql) && /millrace_(message|letter|log|seen)/.test(sql)

describe("the plan of every statement", () => {
  // Whoever shares the file may run ANALYZE, at a time when the tables are small or large.
  for (const [when, rows] of [
    ["without statistics", undefined],
    ["with the statistics of small tables", 2],
    ["with the statistics of larger tables", 3_000]
  ] as const) {
    it.effect(`uses an index ${when}`, () =>
      Effect.gen(function* () {
        const { driver, filename, seen } = yield* everything
        const db = yield* Effect.acquireRelease(
          Effect.sync(() => new DatabaseSync(filename)),
          (db) => Effect.sync(() => db.close())
        )
        if (rows !== undefined) {
          yield* driver.publish(
            Array.from({ length: rows }, (_, i) =>
              message("t", String(i), { envelope: { key: `k${i % 100}` }, delay: i % 4 === 0 ? 1_000 : undefined })
            )
          )
          yield* driver.publish(Array.from({ length: rows }, (_, i) => message("kept", String(i))))
          db.exec("ANALYZE")
        }
        const statements = [...seen].filter(grows)
        assert.isAbove(statements.length, 30)
        for (const sql of statements) {
          const long = planOf(db, sql).filter(isLong)
          assert.deepStrictEqual(long, [], sql)
        }
      })
    )
  }

  it.effect("of a claim, a promotion and a settlement, by name", () =>
    Effect.gen(function* () {
      const { filename, seen } = yield* everything
      const db = yield* Effect.acquireRelease(
        Effect.sync(() => new DatabaseSync(filename)),
        (db) => Effect.sync(() => db.close())
      )
      const plan = (...words: ReadonlyArray<string>) => {
        const sql = [...seen].filter((sql) => words.every((word) => sql.includes(word)))
        assert.strictEqual(sql.length, 1, `one statement with ${words.join(" and ")}`)
        return planOf(db, sql[0] ?? "").join("; ")
      }
      assert.strictEqual(
        plan("SELECT seq, deliveries", "ORDER BY priority DESC, seq"),
        "SEARCH millrace_message USING INDEX millrace_ready (queue=?)"
      )
      assert.strictEqual(
        plan("SELECT visible_at", "LIMIT 1"),
        "SEARCH millrace_message USING COVERING INDEX millrace_delayed (queue=?)"
      )
      assert.strictEqual(
        plan("DELETE FROM millrace_message WHERE seq = ? AND owner = ?"),
        "SEARCH millrace_message USING INTEGER PRIMARY KEY (rowid=?)"
      )
      assert.strictEqual(
        plan("SELECT seq FROM millrace_message", "key = ?", "owner <> ?"),
        "SEARCH millrace_message USING COVERING INDEX millrace_blocking (queue=? AND key=?)"
      )
      assert.include(plan("SET state = 0, owner = 0 WHERE state = 1 AND owner = ?"), "millrace_owned (owner=?)")
    })
  )
})
