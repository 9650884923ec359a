/** Promise 3, the handle that is collected: needs a real garbage collection, so a process of its own. */
import { spawnSync } from "node:child_process"
import { assert, describe, it } from "@effect/vitest"

const program = `
import { Effect } from "effect"
import { WorkerPool } from "millrace"

await Effect.runPromise(Effect.scoped(Effect.gen(function* () {
  const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
  const kept = yield* pool.submit(Effect.fail("kept"))
  yield* Effect.asVoid(pool.submit(Effect.fail("forgotten"), { name: "forgotten" }))
  for (let i = 0; i < 50; i++) {
    globalThis.gc()
    yield* Effect.sleep(5)
  }
  console.log("open")
  yield* Effect.exit(kept.await)
})))
console.log("closed")
`

describe("a failed handle that nobody read", () => {
  it("is reported when it is collected, while the pool goes on", () => {
    const { status, stdout } = spawnSync(
      process.execPath,
      ["--expose-gc", "--conditions=millrace-source", "--input-type=module", "-e", program],
      { cwd: new URL("../..", import.meta.url), encoding: "utf8" }
    )
    assert.strictEqual(status, 0)
    const [before, after] = stdout.split("open\n")
    assert.include(before, 'Task "forgotten" of pool "p" failed and nobody read its result')
    assert.strictEqual(stdout.match(/nobody read/g)?.length, 1)
    assert.strictEqual(after, "closed\n")
  })
})
