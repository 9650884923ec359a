/** What can be wrong with a file, each as an error that says what to do. */
import { chmodSync, closeSync, openSync, renameSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs"
import { dirname, join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import { type Sqlite, SqliteClient } from "millrace/sqlite"
import { BrokerError } from "../../../src/messaging/BrokerError.ts"
import { acknowledge, consume, filename, folder, message, open, subscribe, take, textOf } from "./support.ts"

const codeOf = (error: BrokerError) => (error.reason._tag === "Rejected" ? error.reason.code : "Unavailable")

/** The error of an effect that has to fail, with its sentence. */
const failure = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<BrokerError, A, R> =>
  Effect.map(Effect.flip(effect), (error) => {
    if (!(error instanceof BrokerError)) return assert.fail(`no BrokerError: ${error}`)
    assert.isAbove(error.message.length, 40)
    return error
  })

const opening = (options: Partial<Sqlite.Options>) => failure(Effect.scoped(open(options)))

/** A disk that is nearly full is a limit of the connection, so the connections that the broker opens are caught here. */
const connectionsOpened = () => {
  const opened = new Set<DatabaseSync>()
  const { exec } = DatabaseSync.prototype
  DatabaseSync.prototype.exec = function (this: DatabaseSync, sql) {
    opened.add(this)
    return exec.call(this, sql)
  }
  return () => {
    DatabaseSync.prototype.exec = exec
    return opened
  }
}

describe("opening", () => {
  it.live("a missing folder, a folder as the file", () =>
    Effect.gen(function* () {
      const path = yield* folder
      const missing = yield* opening({ filename: join(path, "nowhere", "broker.db") })
      assert.strictEqual(codeOf(missing), "Refused")
      assert.include(missing.message, "create it")
      const isFolder = yield* opening({ filename: path })
      assert.strictEqual(codeOf(isFolder), "Refused")
      assert.include(isFolder.message, "is a folder")
    })
  )

  it.live("the client by itself says what SQLite said", () =>
    Effect.gen(function* () {
      const layer = SqliteClient.layer({ filename: join(dirname(yield* filename), "missing", "app.db") })
      const error = yield* Effect.flip(Effect.provide(Effect.void, layer))
      assert.match(error.message, /missing.app\.db \(unable to open database file\)$/)
    })
  )

  it.live("a file that is no database", () =>
    Effect.gen(function* () {
      const path = yield* filename
      writeFileSync(path, "not a database, but long enough to be taken for the header of one".repeat(20))
      assert.strictEqual(codeOf(yield* opening({ filename: path })), "Corrupt")
    })
  )

  it.live("a file that is damaged", () =>
    Effect.gen(function* () {
      const path = yield* filename
      yield* Effect.scoped(
        Effect.flatMap(open({ filename: path }), ({ driver }) =>
          driver.publish(Array.from({ length: 500 }, (_, i) => message("t", String(i))))
        )
      )
      // The header stays, the pages behind it are noise.
      const file = openSync(path, "r+")
      writeSync(file, Buffer.alloc(statSync(path).size - 4096, 0xa5), 0, undefined, 4096)
      closeSync(file)
      assert.strictEqual(codeOf(yield* opening({ filename: path })), "Corrupt")
    })
  )

  it.live("tables of a newer version", () =>
    Effect.gen(function* () {
      const path = yield* filename
      yield* Effect.scoped(open({ filename: path }))
      const db = new DatabaseSync(path)
      db.exec("UPDATE millrace_meta SET version = 1000")
      db.close()
      const error = yield* opening({ filename: path })
      assert.strictEqual(codeOf(error), "Incompatible")
      assert.include(error.message, "1000")
    })
  )

  it.live.skipIf(process.getuid?.() === 0)("a file or a folder that may not be written", () =>
    Effect.gen(function* () {
      const path = yield* filename
      yield* Effect.scoped(open({ filename: path }))
      chmodSync(path, 0o400)
      assert.strictEqual(codeOf(yield* opening({ filename: path })), "Denied")
      chmodSync(path, 0o600)
      chmodSync(dirname(path), 0o500)
      assert.strictEqual(codeOf(yield* opening({ filename: path })), "Denied")
      chmodSync(dirname(path), 0o700)
    })
  )

  it.live("a file on a file system without write access", () =>
    Effect.gen(function* () {
      // Root may write everywhere but in /proc and /sys.
      assert.include(["Denied", "Refused"], codeOf(yield* opening({ filename: "/proc/self/broker.db" })))
    })
  )

  it.live("a file that stays locked", () =>
    Effect.gen(function* () {
      const path = yield* filename
      const db = new DatabaseSync(path)
      db.exec("PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE mine (a); BEGIN EXCLUSIVE")
      const error = yield* opening({ filename: path, lockTimeout: "100 millis" })
      assert.strictEqual(codeOf(error), "Unavailable")
      db.close()
    })
  )

  it.live("wrong options are defects, with a sentence for each", () =>
    Effect.gen(function* () {
      const defect = (options: unknown) =>
        Effect.map(Effect.exit(Effect.scoped(open(options as Partial<Sqlite.Options>))), (exit) =>
          Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "opened"
        )
      assert.include(yield* defect({ filename: ":memory:" }), "must be the path of a file")
      assert.include(yield* defect({ filename: " " }), "must not be empty")
      assert.include(yield* defect({ synchronous: "OFF" }), `must be "FULL" or "NORMAL"`)
      assert.include(yield* defect({ lockTimeout: "0 seconds" }), "how long to wait")
      assert.include(yield* defect({ pollInterval: "never" }), "between two looks")
      assert.include(yield* defect({ dedupeWindow: Number.NaN }), "is remembered")
      assert.include(yield* defect({ maxMessageBytes: 0.5 }), "whole number of bytes")
      assert.include(yield* defect({ retention: { t: -1 } }), "for new groups")
      const client = yield* Effect.exit(Effect.provide(Effect.void, SqliteClient.layer({ filename: "" })))
      assert.isTrue(Exit.isFailure(client))
    })
  )
})

describe("while it is open", () => {
  it.live("a full file refuses new messages, and goes on settling", () =>
    Effect.gen(function* () {
      const connections = connectionsOpened()
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver, { credit: 10_000 })
      yield* driver.publish([message("t", "kept")])
      for (const db of connections()) {
        const pages = Number(db.prepare("PRAGMA page_count").get()?.page_count)
        db.exec(`PRAGMA max_page_count = ${pages + 60}`)
      }
      const big = (i: number) => ({ ...message("t", ""), body: new Uint8Array(50_000).fill(i) })
      const answers = yield* Effect.all(
        Array.from({ length: 10 }, (_, i) => driver.publish([big(i)])).map((effect) => Effect.exit(effect)),
        { concurrency: "unbounded" }
      )
      const failed = answers.filter(Exit.isFailure)
      assert.isAbove(failed.length, 0)
      assert.isBelow(failed.length, 10)
      for (const { cause } of failed) {
        const error = Cause.squash(cause)
        if (!(error instanceof BrokerError)) return assert.fail(String(error))
        assert.strictEqual(codeOf(error), "Full")
        assert.include(error.message, "Free disk space")
      }
      const taken = yield* consume(subscription, 1 + 10 - failed.length)
      assert.strictEqual(taken[0] && textOf(taken[0]), "kept")
      // There is room again.
      assert.deepStrictEqual(yield* driver.publish([big(1)]), [{ _tag: "Confirmed" }])
    })
  )

  it.live("too large a payload fails alone", () =>
    Effect.gen(function* () {
      const { driver } = yield* open({ maxMessageBytes: 10 })
      assert.strictEqual(driver.maxMessageBytes, 10)
      const answers = yield* driver.publish([
        message("t", "small"),
        message("t", "much too large"),
        message("t", "fits")
      ])
      assert.deepStrictEqual(
        answers.map(({ _tag }) => _tag),
        ["Confirmed", "Failed", "Confirmed"]
      )
      const [, failed] = answers
      if (failed?._tag !== "Failed") return assert.fail()
      assert.strictEqual(codeOf(failed.error), "TooLarge")
      const single = yield* driver.publish([message("t", "much too large")])
      assert.strictEqual(single[0]?._tag, "Failed")
    })
  )

  it.live("what cannot be stored fails alone, also in the transaction of others", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const subscription = yield* subscribe(driver)
      const broken = message("t", "broken", { envelope: { attempt: {} as unknown as number } })
      const [good, bad, other] = yield* Effect.all(
        [
          Effect.exit(driver.publish([message("t", "good")])),
          Effect.exit(driver.publish([broken])),
          Effect.exit(driver.publish([message("t", "other")]))
        ],
        { concurrency: "unbounded" }
      )
      assert.isTrue(Exit.isSuccess(good) && Exit.isSuccess(other))
      assert.isTrue(Exit.isFailure(bad))
      assert.deepStrictEqual((yield* consume(subscription, 2)).map(textOf), ["good", "other"])
      const nonsense = yield* driver.publish([
        message("t", "a", { delay: Number.NaN }),
        message("t", "b", { delay: -1 }),
        message("t", "c", { priority: Number.POSITIVE_INFINITY })
      ])
      assert.deepStrictEqual(
        nonsense.map(({ _tag }) => _tag),
        ["Failed", "Failed", "Failed"]
      )
    })
  )

  it.live("another process that keeps the write lock: Unavailable in time, and the event loop goes on", () =>
    Effect.gen(function* () {
      const { driver, filename: path } = yield* open({ lockTimeout: "150 millis" })
      const subscription = yield* subscribe(driver)
      const db = new DatabaseSync(path)
      db.exec("BEGIN IMMEDIATE")
      let turns = 0
      const counting = setInterval(() => turns++, 1)
      const start = performance.now()
      const error = yield* failure(driver.publish([message("t", "a")]))
      const waited = performance.now() - start
      clearInterval(counting)
      assert.strictEqual(codeOf(error), "Unavailable")
      assert.include(error.message, "lockTimeout")
      assert.isAbove(waited, 140)
      assert.isBelow(waited, 1_000)
      assert.isAbove(turns, 20, "the event loop had its turns")
      // In time, it is only a delay.
      const later = yield* Effect.forkChild(driver.publish([message("t", "b")]), { startImmediately: true })
      yield* Effect.sleep("50 millis")
      db.exec("ROLLBACK")
      db.close()
      yield* Fiber.join(later)
      assert.deepStrictEqual((yield* consume(subscription, 1)).map(textOf), ["b"])
    })
  )

  for (const [what, change] of [
    ["deleted", (path: string) => rmSync(path)],
    [
      "replaced",
      (path: string) => {
        rmSync(path)
        writeFileSync(path, "")
      }
    ]
  ] as const) {
    it.live(`a file that is ${what} confirms nothing any more`, () =>
      Effect.gen(function* () {
        const { driver, filename: path, sql } = yield* open()
        const subscription = yield* subscribe(driver)
        yield* driver.publish([message("t", "a")])
        const taken = yield* take(subscription)
        change(path)
        const publishing = yield* failure(driver.publish([message("t", "b")]))
        assert.strictEqual(codeOf(publishing), "Unavailable")
        assert.include(publishing.message, "deleted or replaced")
        assert.include((yield* failure(acknowledge(subscription, taken))).message, "deleted or replaced")
        assert.include((yield* failure(subscription.take(1, 1))).message, "deleted or replaced")
        const inTransaction = yield* Effect.flip(sql.withTransaction(driver.publish([message("t", "c")])))
        assert.include(String(inTransaction), "deleted or replaced")
      })
    )
  }

  it.live("a file that is put back is used on", () =>
    Effect.gen(function* () {
      const { driver, filename: path } = yield* open()
      const subscription = yield* subscribe(driver)
      renameSync(path, `${path}.away`)
      yield* failure(driver.publish([message("t", "a")]))
      renameSync(`${path}.away`, path)
      yield* driver.publish([message("t", "b")])
      const texts = (yield* take(subscription)).map(textOf)
      assert.include(texts, "b")
    })
  )

  it.live("what was taken while the file was away comes when it is back", () =>
    Effect.gen(function* () {
      const { driver, filename: path } = yield* open()
      const subscription = yield* subscribe(driver)
      yield* driver.publish([message("t", "a"), message("t", "b")])
      renameSync(path, `${path}.away`)
      assert.include((yield* failure(subscription.take(1, 1000))).message, "deleted or replaced")
      renameSync(`${path}.away`, path)
      const texts: Array<string> = []
      while (texts.length < 2) texts.push(...(yield* take(subscription)).map(textOf))
      assert.deepStrictEqual(texts.toSorted(), ["a", "b"])
    }).pipe(Effect.timeout("10 seconds"))
  )

  it.live("tables that somebody has dropped", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      yield* driver.declare({ topic: "t", groups: ["g"] })
      yield* sql`DROP TABLE millrace_message`
      const error = yield* failure(driver.publish([message("t", "a")]))
      assert.strictEqual(codeOf(error), "Refused")
      assert.include(error.message, "millrace_message")
      assert.include((yield* failure(driver.backlog({ topic: "t", group: "g" }))).message, "millrace_message")
    })
  )

  it.live("a closed broker says so", () =>
    Effect.gen(function* () {
      const { driver, subscription, taken } = yield* Effect.scoped(
        Effect.gen(function* () {
          const { driver } = yield* open()
          yield* driver.publish([message("t", "a")])
          const subscription = yield* subscribe(driver)
          return { driver, subscription, taken: yield* take(subscription) }
        })
      )
      assert.include((yield* failure(driver.publish([message("t", "b")]))).message, "closed")
      assert.include((yield* failure(take(subscription))).message, "closed")
      assert.include((yield* failure(driver.backlog({ topic: "t", group: "g" }))).message, "closed")
      assert.include((yield* failure(acknowledge(subscription, taken))).message, "closed")
    })
  )
})
