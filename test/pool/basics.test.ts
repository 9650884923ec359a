import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { WorkerPool } from "millrace"

describe("WorkerPool", () => {
  it.effect("runs", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      assert.strictEqual(yield* pool.run(Effect.succeed(1)), 1)
      const exit = yield* Effect.exit(pool.run(Effect.fail("no")))
      assert.deepStrictEqual(exit, Exit.fail("no"))
    })
  )
})
