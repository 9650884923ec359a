/** Every operation, interrupted at every point: nothing is claimed and forgotten, nothing is half done. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope } from "effect"
import { everyInterruptionPoint } from "millrace/testing"
import type { Delivery } from "../../../src/messaging/Driver.ts"
import { acknowledge, consume, drain, filename, message, open, subscribe, take, textOf } from "./support.ts"

const texts = ["a", "b", "c"]

const withBacklog = Effect.gen(function* () {
  const opened = yield* open()
  const subscription = yield* subscribe(opened.driver)
  yield* opened.driver.publish(texts.map((text) => message("t", text)))
  const received: Array<Delivery> = []
  return { ...opened, subscription, received }
})

const inFlight = ({ driver }: Effect.Success<typeof withBacklog>) =>
  Effect.map(driver.backlog({ topic: "t", group: "g" }), ({ inFlight }) => inFlight)

describe("interrupted at every point", () => {
  it.live("a take loses nothing: the next one has what it did not hand over", () =>
    Effect.map(
      everyInterruptionPoint(
        withBacklog,
        // As a consumer takes: what was handed over is noted before anything else can happen.
        ({ received, subscription }) =>
          Effect.uninterruptibleMask((restore) =>
            Effect.map(restore(take(subscription, 2)), (taken) => {
              received.push(...taken)
            })
          ),
        (state) =>
          Effect.gen(function* () {
            const { received, subscription } = state
            const rest = texts.length - received.length
            received.push(...(yield* drain(subscription)))
            if (received.length < texts.length && rest > 0) received.push(...(yield* drain(subscription)))
            assert.deepStrictEqual(received.map(textOf), texts)
            assert.deepStrictEqual(
              received.map(({ deliveries }) => deliveries),
              [1, 1, 1]
            )
            assert.strictEqual(yield* inFlight(state), 3)
            yield* acknowledge(subscription, received)
            assert.strictEqual(yield* inFlight(state), 0)
          })
      ),
      (points) => assert.isAbove(points, 5)
    )
  )

  it.live("a take that has to wait leaves nothing behind", () =>
    everyInterruptionPoint(
      Effect.gen(function* () {
        const opened = yield* open()
        return { ...opened, subscription: yield* subscribe(opened.driver) }
      }),
      ({ driver, subscription }) =>
        Effect.andThen(Effect.forkChild(driver.publish([message("t", "a")])), Effect.asVoid(take(subscription, 1))),
      ({ driver, subscription }) =>
        Effect.gen(function* () {
          yield* driver.publish([message("t", "b")])
          yield* drain(subscription)
          yield* drain(subscription)
          const backlog = yield* driver.backlog({ topic: "t", group: "g" })
          assert.strictEqual(backlog.waiting, 0)
        })
    )
  )

  it.live("a publish happens whole or not at all", () =>
    everyInterruptionPoint(
      withBacklog,
      ({ driver }) => driver.publish([message("t", "d"), message("t", "e")]),
      ({ driver, subscription }, exit) =>
        Effect.gen(function* () {
          yield* driver.publish([message("t", "last")])
          const all: Array<string> = []
          while (all.at(-1) !== "last") all.push(...(yield* consume(subscription, 1)).map(textOf))
          const added = all.slice(3, -1)
          if (exit._tag === "Success") assert.deepStrictEqual(added, ["d", "e"])
          else assert.include(["", "d,e"], added.join(","))
        })
    )
  )

  it.live("a settlement happens or does not, and can be asked for again", () =>
    everyInterruptionPoint(
      Effect.gen(function* () {
        const state = yield* withBacklog
        return { ...state, taken: yield* take(state.subscription) }
      }),
      ({ subscription, taken }) => acknowledge(subscription, taken),
      (state) =>
        Effect.gen(function* () {
          const again = yield* acknowledge(state.subscription, state.taken)
          assert.deepStrictEqual(again, ["Settled", "Settled", "Settled"])
          assert.strictEqual(yield* inFlight(state), 0)
          assert.deepStrictEqual(yield* drain(state.subscription), [])
        })
    )
  )

  it.live(
    "opening and closing leave a file that others can use, and hold nothing",
    () =>
      everyInterruptionPoint(
        Effect.gen(function* () {
          const path = yield* filename
          yield* Effect.scoped(
            Effect.flatMap(open({ filename: path, synchronous: "NORMAL" }), ({ driver }) =>
              Effect.andThen(
                driver.declare({ topic: "t", groups: ["g"] }),
                driver.publish(texts.map((text) => message("t", text)))
              )
            )
          )
          return path
        }),
        (path) =>
          Effect.scoped(
            Effect.gen(function* () {
              const { driver } = yield* open({ filename: path, synchronous: "NORMAL" })
              yield* take(yield* subscribe(driver))
            })
          ),
        (path) =>
          Effect.scoped(
            Effect.gen(function* () {
              const { driver } = yield* open({ filename: path, lockTimeout: "500 millis", synchronous: "NORMAL" })
              const subscription = yield* subscribe(driver)
              assert.deepStrictEqual((yield* consume(subscription, 3)).map(textOf), texts)
            })
          )
      ),
    // Several hundred files are opened and closed.
    120_000
  )
})

describe("closing", () => {
  it.live("answers everything that was asked before", () =>
    Effect.gen(function* () {
      const path = yield* filename
      const scope = yield* Scope.make()
      const { driver } = yield* Scope.provide(open({ filename: path }), scope)
      yield* driver.declare({ topic: "t", groups: ["g"] })
      const publishing = yield* Effect.forkChild(
        Effect.all(
          Array.from({ length: 100 }, (_, i) => driver.publish([message("t", String(i))])),
          { concurrency: "unbounded" }
        ),
        { startImmediately: true }
      )
      yield* Scope.close(scope, Exit.void)
      const answers = yield* Fiber.await(publishing)
      assert.strictEqual(answers._tag, "Success")
      const again = yield* open({ filename: path })
      const subscription = yield* subscribe(again.driver)
      assert.strictEqual((yield* consume(subscription, 100)).length, 100)
    })
  )
})
