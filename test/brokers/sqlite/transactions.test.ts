/** Publishing inside a transaction of the client, and what that transaction does to the others. */
import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Schema, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { Topic } from "millrace"
import { Sqlite, SqliteClient } from "millrace/sqlite"
import { BrokerError } from "../../../src/messaging/BrokerError.ts"
import { acknowledge, consume, drain, filename, message, open, subscribe, take, textOf } from "./support.ts"

describe("publishing inside sql.withTransaction", () => {
  it.live("is confirmed by its commit, and wakes consumers then", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      yield* sql`CREATE TABLE orders (id TEXT)`
      const subscription = yield* subscribe(driver)
      const waiting = yield* Effect.forkChild(take(subscription), { startImmediately: true })
      const inside = yield* Deferred.make<void>()
      const commit = yield* Deferred.make<void>()
      const business = yield* Effect.forkChild(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`INSERT INTO orders VALUES ('o-1')`
            assert.deepStrictEqual(yield* driver.publish([message("t", "o-1")]), [{ _tag: "Confirmed" }])
            yield* Deferred.succeed(inside, undefined)
            yield* Deferred.await(commit)
          })
        )
      )
      yield* Deferred.await(inside)
      yield* Effect.sleep("20 millis")
      assert.isUndefined(waiting.pollUnsafe())
      yield* Deferred.succeed(commit, undefined)
      yield* Fiber.join(business)
      assert.deepStrictEqual((yield* Fiber.join(waiting)).map(textOf), ["o-1"])
    })
  )

  it.live("waits for nobody who waits for its lock, also where both publish to a topic for the first time", () =>
    Effect.gen(function* () {
      const Orders = Topic.make("orders", { schema: Schema.String, version: 1, groups: ["g"] })
      const layer = Sqlite.layer({ filename: yield* filename, lockTimeout: "2 seconds" })
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const [begun, waits] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
        const inside = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.andThen(
              Effect.andThen(Deferred.succeed(begun, undefined), Deferred.await(waits)),
              Orders.publish("inside")
            )
          )
        )
        yield* Deferred.await(begun)
        const outside = yield* Effect.forkChild(Orders.publish("outside"), { startImmediately: true })
        yield* Deferred.succeed(waits, undefined)
        yield* Fiber.joinAll([inside, outside])
      }).pipe(Effect.provide(layer))
    })
  )

  it.live("vanishes with a rollback, also that of a savepoint", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open({ dedupeWindow: "1 minute" })
      const subscription = yield* subscribe(driver)
      // The first message of a topic creates it, which must not be remembered either.
      const unknown = message("unknown", "x")
      const failed = yield* Effect.exit(
        sql.withTransaction(Effect.andThen(driver.publish([message("t", "gone"), unknown]), Effect.fail("rolled back")))
      )
      assert.isTrue(Exit.isFailure(failed))
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* driver.publish([message("t", "stays")])
          yield* Effect.ignore(
            sql.withTransaction(Effect.andThen(driver.publish([message("t", "gone too")]), Effect.fail("inner")))
          )
        })
      )
      assert.deepStrictEqual((yield* consume(subscription, 1)).map(textOf), ["stays"])
      assert.deepStrictEqual(yield* drain(subscription), [])
      assert.deepStrictEqual(yield* driver.publish([unknown]), [{ _tag: "Confirmed" }])
      const later = yield* subscribe(driver, { topic: "unknown" })
      assert.strictEqual((yield* consume(later, 1)).length, 1)
    })
  )

  it.live("what a transaction has learned is forgotten with it", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      const publishTwice = Effect.andThen(
        driver.publish([message("new", "gone")]),
        driver.publish([message("new", "gone")])
      )
      yield* Effect.ignore(sql.withTransaction(Effect.andThen(publishTwice, Effect.fail("rolled back"))))
      // As many changes to the topics as were rolled back.
      yield* driver.declare({ topic: "other", groups: [] })
      yield* driver.declare({ topic: "other", groups: ["g"] })
      yield* sql.withTransaction(driver.publish([message("new", "kept")]))
      const subscription = yield* subscribe(driver, { topic: "new" })
      assert.deepStrictEqual((yield* consume(subscription, 1)).map(textOf), ["kept"])
    })
  )

  it.live("leaves nothing of itself where it fails, and the transaction can go on", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      const subscription = yield* subscribe(driver)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          const broken = message("t", "broken", { envelope: { attempt: {} as unknown as number } })
          const exit = yield* Effect.exit(driver.publish([message("t", "first"), broken]))
          assert.isTrue(Exit.isFailure(exit))
          yield* driver.publish([message("t", "second")])
        })
      )
      assert.deepStrictEqual((yield* take(subscription)).map(textOf), ["second"])
    })
  )

  it.live("other operations say that they would wait for the transaction they are in", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      const subscription = yield* subscribe(driver)
      yield* driver.publish([message("t", "a")])
      const taken = yield* take(subscription)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          const operations: ReadonlyArray<Effect.Effect<unknown, BrokerError, never>> = [
            acknowledge(subscription, taken),
            subscription.renew(taken),
            take(subscription),
            driver.removeGroup({ topic: "t", group: "g" }),
            Effect.scoped(subscribe(driver, { group: "i" })),
            driver.deadLetters?.remove({ topic: "t", group: "g" }, ["1"]) ?? Effect.void,
            driver.deadLetters?.move?.({ topic: "t", group: "g" }, "1", message("t", "a")) ?? Effect.void
          ]
          for (const operation of operations) {
            const error = yield* Effect.flip(operation)
            assert.include(String(error instanceof BrokerError ? error.message : error), "after the transaction")
          }
          // Reading is not writing.
          assert.strictEqual((yield* driver.backlog({ topic: "t", group: "g" })).inFlight, 1)
        })
      )
      assert.deepStrictEqual(yield* acknowledge(subscription, taken), ["Settled"])
    })
  )

  it.live("an open transaction holds up the broker for lockTimeout at most", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open({ lockTimeout: "100 millis" })
      const subscription = yield* subscribe(driver)
      const open_ = yield* Deferred.make<void>()
      const end = yield* Deferred.make<void>()
      const long = yield* Effect.forkChild(
        sql.withTransaction(Effect.andThen(Deferred.succeed(open_, undefined), Deferred.await(end)))
      )
      yield* Deferred.await(open_)
      const error = yield* Effect.flip(driver.publish([message("t", "a")]))
      assert.include(error.message, "open transaction")
      const waiting = yield* Effect.forkChild(driver.publish([message("t", "b")]), { startImmediately: true })
      yield* Effect.sleep("20 millis")
      yield* Deferred.succeed(end, undefined)
      yield* Fiber.join(long)
      yield* Fiber.join(waiting)
      assert.deepStrictEqual((yield* take(subscription)).map(textOf), ["b"])
    })
  )
})

describe("streams of rows", () => {
  it.live("one that is left in the middle holds up no transaction", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      yield* sql`CREATE TABLE n (i INTEGER)`
      yield* sql`WITH RECURSIVE c (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < 9999) INSERT INTO n SELECT i FROM c`
      const some = Stream.runCollect(Stream.take(sql<{ i: number }>`SELECT i FROM n`.stream, 1))
      assert.strictEqual((yield* some).length, 1)
      // Another connection writes; left open, the statement would hold on to what was before.
      yield* driver.publish([message("t", "a")])
      yield* sql.withTransaction(sql`UPDATE n SET i = i + 1`)
    })
  )
})

describe("SqliteClient", () => {
  const client = Effect.gen(function* () {
    const path = yield* filename
    const layer = SqliteClient.layer({ filename: path, lockTimeout: "200 millis" })
    return { path, layer }
  })

  it.live("reads values, rows and streams, and classifies errors", () =>
    Effect.gen(function* () {
      const { layer } = yield* client
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE n (i INTEGER UNIQUE)`
        yield* sql`WITH RECURSIVE c (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < 999) INSERT INTO n SELECT i FROM c`
        assert.deepStrictEqual(yield* sql`SELECT count(*) FROM n`.values, [[1000]])
        const streamed = yield* Stream.runCollect(sql<{ i: number }>`SELECT i FROM n ORDER BY i`.stream)
        assert.strictEqual(streamed.length, 1000)
        assert.strictEqual(streamed[999]?.i, 999)
        const duplicate = yield* Effect.flip(sql`INSERT INTO n (i) VALUES (1)`)
        assert.strictEqual(duplicate.reason._tag, "UniqueViolation")
        const wrong = yield* Effect.flip(sql`SELECT * FROM nowhere`)
        assert.include(String(wrong.reason.cause), "nowhere")
        const wrongStream = yield* Effect.flip(Stream.runDrain(sql`SELECT * FROM nowhere`.stream))
        assert.include(String(wrongStream.reason.cause), "nowhere")
        const exact = yield* Effect.provideService(sql`SELECT 9007199254740993 AS i`, SqlClient.SafeIntegers, true)
        assert.deepStrictEqual(exact[0]?.i, 9007199254740993n)
        // More statements than are kept prepared.
        for (let i = 0; i < 300; i++) yield* sql`SELECT ${sql.literal(String(i))} AS i`
      }).pipe(Effect.provide(layer))
    })
  )

  it.live("waits for another writer, and gives up in time", () =>
    Effect.gen(function* () {
      const { layer } = yield* client
      const services = yield* Effect.all([Layer.build(Layer.fresh(layer)), Layer.build(Layer.fresh(layer))])
      const [here, there] = services.map((context) => Context.get(context, SqlClient.SqlClient))
      if (here === undefined || there === undefined) return assert.fail()
      yield* here`CREATE TABLE n (i INTEGER)`
      const insert = (sql: SqlClient.SqlClient) => sql.withTransaction(sql`INSERT INTO n VALUES (1)`)
      const slow = yield* Effect.forkChild(here.withTransaction(Effect.sleep("100 millis")), { startImmediately: true })
      yield* insert(there)
      yield* Fiber.join(slow)
      const longer = yield* Effect.forkChild(here.withTransaction(Effect.sleep("600 millis")), {
        startImmediately: true
      })
      const error = yield* Effect.flip(insert(there))
      assert.strictEqual(error.reason._tag, "LockTimeoutError")
      yield* Fiber.join(longer)
      yield* insert(there)
      assert.deepStrictEqual(yield* there`SELECT count(*) FROM n`.values, [[2]])
    })
  )
})
