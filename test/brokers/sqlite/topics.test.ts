/** Topics of a program whose first publish is inside a transaction, which declares them with it. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Broker, Consumer, Topic } from "millrace"
import { Sqlite } from "millrace/sqlite"
import { filename } from "./support.ts"

const Orders = Topic.make("orders", { schema: Schema.String, version: 1, groups: ["sms"] })

const onFile = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const file = yield* filename
    // Consumers close before their broker.
    return yield* Effect.provide(Effect.scoped(effect), Sqlite.layer({ filename: file }))
  })

const publish = Effect.flatMap(SqlClient.SqlClient, (sql) => sql.withTransaction(Orders.publish("o-1")))

describe("the first publish inside of sql.withTransaction", () => {
  it.live("works where a consumer of the topic has started", () =>
    onFile(
      Effect.gen(function* () {
        const got = yield* Deferred.make<string>()
        yield* Consumer.make(Orders, (order) => Deferred.succeed(got, order), { group: "sms" })
        yield* publish
        assert.strictEqual(yield* Deferred.await(got), "o-1")
      })
    )
  )

  it.live("keeps its messages for the groups of the topic, and for none where it is rolled back", () =>
    onFile(
      Effect.gen(function* () {
        const sql = yield* SqlClient.SqlClient
        const driver = yield* Broker.Broker
        const rolledBack = yield* Effect.flip(
          sql.withTransaction(Effect.andThen(Orders.publish("o-0"), Effect.fail("no")))
        )
        assert.strictEqual(rolledBack, "no")
        assert.deepStrictEqual(yield* driver.groups("orders"), [])
        yield* publish
        yield* publish
        assert.deepStrictEqual(yield* driver.groups("orders"), ["sms"])
        assert.strictEqual((yield* driver.backlog({ topic: "orders", group: "sms" })).waiting, 2)
      })
    )
  )
})
