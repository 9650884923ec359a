import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Background } from "millrace"
import { whileTimePasses } from "millrace/testing"
import { balanced, gate, logged } from "./support.ts"

describe("Background", () => {
  it.effect("fork returns while the work goes on, and closing waits for it", () =>
    Effect.gen(function* () {
      const done: Array<string> = []
      const program = Effect.gen(function* () {
        yield* Background.fork(
          Effect.andThen(
            Effect.sleep("1 second"),
            Effect.sync(() => done.push("tracked"))
          )
        )
        assert.deepStrictEqual(done, [])
        return "queued"
      })
      assert.strictEqual(yield* whileTimePasses(Effect.provide(program, Background.layer())), "queued")
      assert.deepStrictEqual(done, ["tracked"])
    })
  )

  it.effect("runs at most maxInFlight; the next caller waits", () =>
    Effect.gen(function* () {
      const background = yield* Background.make({ maxInFlight: 2 })
      const work = yield* gate
      yield* background.fork(work.pass)
      yield* background.fork(work.pass)
      const third = yield* Effect.forkChild(background.fork(Effect.void), { startImmediately: true })
      assert.deepInclude(yield* balanced(background), { running: 2, queued: 0, blocked: 1 })
      yield* work.open
      yield* Fiber.join(third)
      yield* background.awaitIdle
      assert.deepInclude(yield* balanced(background), { succeeded: 3 })
    })
  )

  it.effect("reject and dropNewest", () =>
    Effect.gen(function* () {
      const work = yield* gate
      const rejecting = yield* Background.make({ maxInFlight: 1, onFull: "reject" })
      yield* rejecting.fork(work.pass)
      const full = yield* Effect.flip(rejecting.fork(Effect.void))
      assert.strictEqual(full._tag, "PoolFull")
      // It has no backlog that could be full.
      assert.notInclude(full.message, "backlog")
      assert.include(full.message, "maxInFlight")
      const heard: Array<string> = []
      const dropping = yield* Background.make({ maxInFlight: 1, onFull: "dropNewest" })
      yield* dropping.fork(work.pass)
      yield* dropping.fork(Effect.void, { onFailure: (cause) => Effect.sync(() => heard.push(String(cause))) })
      assert.include(heard[0], "TaskDropped")
      assert.notInclude(heard[0], "backlog")
      assert.deepInclude(yield* balanced(dropping), { dropped: 1 })
      yield* work.open
    })
  )

  it.effect("a defect is reported once, a failure is heard by onFailure", () =>
    Effect.gen(function* () {
      const heard: Array<string> = []
      const program = Effect.gen(function* () {
        yield* Background.fork(Effect.die("bug"), { name: "track" })
        yield* Background.fork(Effect.fail("no"), {
          onFailure: (cause) => Effect.sync(() => heard.push(String(cause)))
        })
      })
      const [, lines] = yield* logged(Effect.provide(program, Background.layer({ name: "events" })))
      assert.strictEqual(lines.length, 1)
      assert.include(lines[0], 'Task "track" of pool "events" died')
      assert.include(heard[0], "no")
    })
  )

  it.effect("closing interrupts at the deadline and says so", () =>
    Effect.gen(function* () {
      const reports: Array<unknown> = []
      const scope = yield* Scope.make()
      const background = yield* Background.make({
        shutdownDeadline: "1 second",
        onShutdown: (report) => Effect.sync(() => reports.push(report.interrupted.map((task) => task.name)))
      }).pipe(Scope.provide(scope))
      yield* background.fork(Effect.never, { name: "stuck" })
      const closing = yield* Effect.forkChild(background.shutdown(), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(reports, [["stuck"]])
      assert.strictEqual((yield* Effect.flip(background.fork(Effect.void)))._tag, "PoolClosed")
    })
  )
})
