/** Dead letters kept by a second broker. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Stream } from "effect"
import { Broker, Consumer, DeadLetters, type Driver } from "millrace"
import { Memory } from "millrace/memory"
import { Sqlite } from "millrace/sqlite"
import { Numbers, Refused } from "./support.ts"

/** A broker that cannot browse, and dies when it is given a dead letter. */
const blind = Layer.effect(
  Broker.named("default"),
  Effect.map(Layer.build(Memory.layer()), (context): Driver.Driver => {
    const driver = Context.get(context, Broker.named("default"))
    return {
      ...driver,
      abilities: { ...driver.abilities, browse: "none" },
      deadLetters: undefined,
      publish: (messages) =>
        messages.some(({ destination }) => destination._tag === "DeadLetters")
          ? Effect.die(new Error("it was given a dead letter"))
          : driver.publish(messages)
    }
  })
)

const folder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-letters-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

const all = Stream.runCollect(DeadLetters.list(Numbers))

describe("letters beside a broker", () => {
  for (const [name, beside] of [
    ["in memory", Effect.succeed(Memory.layer())],
    ["in a file", Effect.map(folder, (folder) => Sqlite.layer({ filename: join(folder, "letters.db") }))]
  ] as const) {
    it.live(`are listed, replayed to the broker, and purged (${name})`, () =>
      Effect.gen(function* () {
        const handled: Array<number> = []
        const refused = new Set([1, 2, 3])
        const program = Effect.gen(function* () {
          const consumer = yield* Consumer.make(
            Numbers,
            ({ n }) => (refused.has(n) ? Effect.fail(new Refused()) : Effect.sync(() => handled.push(n))),
            { group: "g", onError: { Refused: Consumer.deadLetter } }
          )
          yield* Numbers.publishAll([{ n: 1 }, { n: 2 }, { n: 3 }, { n: 4 }])
          const settled = (count: number) =>
            Effect.repeat(consumer.accounting, { until: ({ acknowledged }) => acknowledged === count })
          yield* settled(1)
          yield* Effect.repeat(all, { until: (letters) => letters.length === 3 })
          refused.clear()
          const [first] = yield* all
          const report = yield* DeadLetters.replay(Numbers, { ids: [first?.id ?? ""] })
          assert.deepInclude(report, { matched: 1, replayed: 1, failed: [], gone: [] })
          yield* settled(2)
          assert.strictEqual((yield* all).length, 2)
          assert.strictEqual(yield* DeadLetters.purge(Numbers), 2)
          assert.deepStrictEqual(yield* all, [])
        })
        yield* program.pipe(Effect.scoped, Effect.provide(DeadLetters.emulate(blind, yield* beside)))
        assert.strictEqual(handled.length, 2)
      }).pipe(Effect.scoped)
    )
  }

  it.live("are there again when both are opened again", () =>
    Effect.gen(function* () {
      const filename = join(yield* folder, "letters.db")
      const broker = () => DeadLetters.emulate(blind, Sqlite.layer({ filename }))
      yield* Effect.gen(function* () {
        yield* Consumer.make(Numbers, () => Effect.fail(new Refused()), {
          group: "g",
          onError: { Refused: Consumer.deadLetter }
        })
        yield* Numbers.publish({ n: 1 })
        yield* Effect.repeat(all, { until: (letters) => letters.length === 1 })
      }).pipe(Effect.scoped, Effect.provide(broker()))
      const letters = yield* Effect.provide(all, broker())
      assert.strictEqual(letters.length, 1)
      assert.strictEqual(letters[0]?.reason, "decision")
    }).pipe(Effect.scoped)
  )

  it.live("a call with letters and others is answered message by message, also where one of the two fails", () =>
    Effect.gen(function* () {
      const driver = yield* Broker.named("default")
      const message = (id: string, letter: boolean, bytes: number): Driver.OutgoingMessage => ({
        envelope: {
          id,
          topic: "numbers",
          source: "//test",
          key: undefined,
          version: 1,
          timestamp: 0,
          contentType: "application/json",
          attempt: 1,
          traceparent: undefined,
          tracestate: undefined,
          correlationId: undefined,
          headers: {},
          history: undefined,
          death: undefined,
          replays: 0
        },
        body: new Uint8Array(bytes),
        destination: letter
          ? { _tag: "DeadLetters", topic: "numbers", group: "g" }
          : { _tag: "Topic", topic: "numbers" }
      })
      yield* driver.declare({ topic: "numbers", groups: ["g"] })
      const answers = yield* driver.publish([
        message("a", true, 50),
        message("b", false, 150),
        message("c", true, 150),
        message("d", false, 50)
      ])
      assert.deepStrictEqual(
        answers.map(({ _tag }) => _tag),
        ["Confirmed", "Confirmed", "Failed", "Confirmed"]
      )
      assert.strictEqual(driver.abilities.browse, "emulated")
      assert.strictEqual(driver.maxMessageBytes, 100)
    }).pipe(Effect.provide(DeadLetters.emulate(blind, Memory.layer({ maxMessageBytes: 100 }))))
  )
})
