/** Topics of a program whose first publish is inside a transaction, where nothing can be declared. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Consumer, Topic } from "millrace"
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

  it.live("works where the topic was declared, and else says what to do", () =>
    onFile(
      Effect.gen(function* () {
        assert.include(String(yield* Effect.exit(publish)), "Call it after the transaction")
        yield* Orders.declare
        assert.isFalse((yield* publish).duplicate)
      })
    )
  )
})
