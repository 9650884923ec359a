/** Publishing in a transaction of the database that is the broker. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type { Fixture } from "../Fixture.ts"
import type { Spec } from "../Harness.ts"
import { check, checkEqual, fail, Log, needsHook } from "../Harness.ts"
import { quiet } from "./contract.ts"

const rolledBack: Spec = {
  id: "rolled-back",
  name: "23 what was published in a transaction that is rolled back is not there, and becomes visible with the commit",
  needs: needsHook("transactions"),
  run: (env) =>
    Effect.gen(function* () {
      const { transactions } = env.fixture
      if (transactions === undefined) return yield* fail("the fixture gives no transactions")
      const app = yield* env.connect
      const topic = env.topic("g")
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const publish = (n: number) => app.publish(topic, { n, key: "k" })
      const aborted = yield* Effect.exit(
        transactions.run(Effect.andThen(publish(1), Effect.fail("the business change failed")), app.context)
      )
      yield* check(Exit.isFailure(aborted), "a transaction that fails succeeds")
      let early = false
      const committed = yield* transactions.run(
        Effect.gen(function* () {
          const id = yield* publish(2)
          yield* Effect.sleep(quiet)
          early = log.ids.has(id)
          return id
        }),
        app.context
      )
      yield* check(!early, "a message was handled before its transaction was committed")
      const after = yield* publish(3)
      const report = yield* env.all(log, [committed, after])
      yield* checkEqual(
        log.entries.filter(({ n }) => n === 1).length,
        0,
        "the messages of the transaction that was rolled back"
      )
      return report
    })
}

const lateCommit: Spec = {
  id: "late-commit",
  name: "24 what is committed late is not skipped, although later messages were handled already",
  needs: ({ transactions }: Fixture) =>
    transactions === undefined
      ? "the fixture gives no transactions"
      : transactions.overlap
        ? undefined
        : "its transactions do not overlap",
  run: (env) =>
    Effect.gen(function* () {
      const { transactions } = env.fixture
      if (transactions === undefined) return yield* fail("the fixture gives no transactions")
      const app = yield* env.connect
      const topic = env.topic("g")
      const log = new Log()
      yield* app.consume(topic, log.note, { group: "g" })
      const ids: Array<string> = []
      /** Publishes, and commits or rolls back when it is told. */
      const begin = (n: number, end: "commit" | "roll back") =>
        Effect.gen(function* () {
          const [published, go] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          const fiber = yield* Effect.forkScoped(
            Effect.exit(
              transactions.run(
                Effect.gen(function* () {
                  const id = yield* app.publish(topic, { n, key: `k${n}` })
                  if (end === "commit") ids.push(id)
                  yield* Deferred.succeed(published, undefined)
                  yield* Deferred.await(go)
                  if (end === "roll back") yield* Effect.fail("rolled back")
                }),
                app.context
              )
            )
          )
          yield* env.within("a publish in a transaction", Deferred.await(published))
          return Effect.andThen(Deferred.succeed(go, undefined), Fiber.join(fiber))
        })
      const first = yield* begin(0, "commit")
      const second = yield* begin(1, "commit")
      const third = yield* begin(2, "roll back")
      const fourth = yield* begin(3, "commit")
      yield* fourth
      yield* env.until("the one that is committed first is handled", () => log.entries.some(({ n }) => n === 3))
      yield* third
      yield* second
      yield* env.until("the one that is committed second is handled", () => log.entries.some(({ n }) => n === 1))
      yield* first
      return yield* env.all(log, ids)
    })
}

export const transactions: ReadonlyArray<Spec> = [rolledBack, lateCommit]
