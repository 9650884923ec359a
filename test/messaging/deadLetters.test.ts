/** Dead letters: listed, replayed, edited, purged; and what happens when one cannot be written. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Result, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, DeadLetters, type Driver, Topic } from "millrace"
import { Memory } from "millrace/memory"
import { balanced, changedDriver, Numbers, onMemory, publish, Refused, settle } from "./support.ts"

/** A consumer that refuses what is in the set, and notes what it handled. */
const refusing = (refused: Set<number>, group = "g") => {
  const handled: Array<{ readonly n: number; readonly attempt: number; readonly replays: number }> = []
  const consumer = Consumer.make(
    Numbers,
    ({ n }, { attempt, replays }) =>
      refused.has(n) ? Effect.fail(new Refused()) : Effect.sync(() => handled.push({ n, attempt, replays })),
    { group, onError: { Refused: Consumer.deadLetter } }
  )
  return { consumer, handled }
}

const all = (filter?: DeadLetters.Filter<{ readonly n: number }>) =>
  Stream.runCollect(DeadLetters.list(Numbers, filter))

describe("dead letters", () => {
  it.effect("are listed with payload, cause and history, of each group by itself", () =>
    onMemory(
      Effect.gen(function* () {
        const one = refusing(new Set([1, 2]), "one")
        const two = refusing(new Set([1]), "two")
        yield* one.consumer
        yield* two.consumer
        const receipts = yield* Numbers.publishAll([{ n: 1 }, { n: 2 }, { n: 3 }])
        yield* settle
        const letters = yield* all()
        assert.deepStrictEqual(
          letters.map(({ group, value }) => [group, value]),
          [
            ["one", Result.succeed({ n: 1 })],
            ["one", Result.succeed({ n: 2 })],
            ["two", Result.succeed({ n: 1 })]
          ]
        )
        assert.strictEqual(letters[0]?.id, receipts[0]?.id)
        assert.deepInclude(letters[0], { reason: "decision", replays: 0, topic: "numbers" })
        assert.deepInclude(letters[0]?.attempts[0], { attempt: 1, tag: "Refused" })
        assert.strictEqual((yield* all({ group: "one" })).length, 2)
        assert.strictEqual((yield* all({ ids: [receipts[0]?.id ?? ""] })).length, 2)
        assert.strictEqual(
          (yield* all({ where: ({ value }) => Result.isSuccess(value) && value.success.n === 2 })).length,
          1
        )
        assert.strictEqual((yield* all({ limit: 1 })).length, 1)
        assert.strictEqual((yield* all({ reason: "defect" })).length, 0)
        assert.strictEqual((yield* DeadLetters.get(Numbers, "two", receipts[0]?.id ?? ""))?.group, "two")
      })
    )
  )

  it.effect("are replayed to their group alone, with attempts counted anew", () =>
    onMemory(
      Effect.gen(function* () {
        const refused = new Set([1])
        const one = refusing(refused, "one")
        const two = refusing(new Set(), "two")
        yield* one.consumer
        yield* two.consumer
        yield* publish(1)
        yield* settle
        const dry = yield* DeadLetters.replay(Numbers, { dryRun: true })
        assert.deepInclude(dry, { matched: 1, replayed: 0 })
        refused.clear()
        assert.deepInclude(yield* DeadLetters.replay(Numbers), { matched: 1, replayed: 1, failed: [], gone: [] })
        yield* settle
        assert.deepStrictEqual(one.handled, [{ n: 1, attempt: 1, replays: 1 }])
        assert.deepStrictEqual(two.handled, [{ n: 1, attempt: 1, replays: 0 }])
        assert.deepStrictEqual(yield* all(), [])
      })
    )
  )

  it.effect("that die again keep their history, and stay after so many replays", () =>
    onMemory(
      Effect.gen(function* () {
        const { consumer } = refusing(new Set([1]))
        yield* consumer
        yield* publish(1)
        yield* settle
        for (let i = 0; i < 2; i++) {
          yield* DeadLetters.replay(Numbers, { maxReplays: 2 })
          yield* settle
        }
        const report = yield* DeadLetters.replay(Numbers, { maxReplays: 2 })
        const [letter, ...more] = yield* all()
        assert.deepStrictEqual(more, [])
        assert.deepStrictEqual<ReadonlyArray<string | undefined>>(report.tooOften, [letter?.id])
        assert.strictEqual(letter?.replays, 2)
        assert.strictEqual(letter?.attempts.length, 3)
      })
    )
  )

  it.effect("are replayed with another payload, through the schema", () =>
    onMemory(
      Effect.gen(function* () {
        const Small = Topic.make("numbers", {
          schema: Schema.Struct({ n: Schema.Number.check(Schema.isLessThan(10)) }),
          version: 1
        })
        const handled: Array<number> = []
        yield* Consumer.make(Small, ({ n }) => Effect.sync(() => handled.push(n)), { group: "g" })
        yield* publish(11)
        yield* publish(12)
        yield* settle
        const report = yield* DeadLetters.replay(Small, {
          edit: ({ raw }) => ({ n: new TextDecoder().decode(raw).includes("11") ? 1 : 99 })
        })
        yield* settle
        assert.deepStrictEqual(handled, [1])
        assert.strictEqual(report.replayed, 1)
        assert.strictEqual(report.failed.length, 1)
        assert.include(report.failed[0]?.problem, "cannot be encoded")
        assert.strictEqual((yield* Stream.runCollect(DeadLetters.list(Small))).length, 1)
      })
    )
  )

  it.effect("are replayed at a rate", () =>
    onMemory(
      Effect.gen(function* () {
        const refused = new Set([1, 2, 3])
        const { consumer, handled } = refusing(refused)
        yield* consumer
        yield* Numbers.publishAll([{ n: 1 }, { n: 2 }, { n: 3 }])
        yield* settle
        refused.clear()
        yield* Effect.forkChild(DeadLetters.replay(Numbers, { rate: { limit: 1, interval: "1 second" } }))
        yield* settle
        assert.strictEqual(handled.length, 1)
        yield* TestClock.adjust("1 second")
        yield* settle
        assert.strictEqual(handled.length, 2)
      })
    )
  )

  it.effect("replayed by the handler that handles one of them are not doubled", () =>
    onMemory(
      Effect.gen(function* () {
        const handled: Array<number> = []
        yield* Consumer.make(
          Numbers,
          (_, { replays }) => {
            if (replays === 0) return Effect.fail(new Refused())
            handled.push(replays)
            return Effect.orDie(DeadLetters.replay(Numbers))
          },
          { group: "g", onError: { Refused: Consumer.deadLetter } }
        )
        yield* publish(1)
        yield* settle
        assert.deepInclude(yield* DeadLetters.replay(Numbers), { replayed: 1 })
        yield* settle
        assert.deepStrictEqual(handled, [1])
        assert.deepStrictEqual(yield* all(), [])
      })
    )
  )

  it.effect("replayed twice at the same time are not doubled", () =>
    onMemory(
      Effect.gen(function* () {
        const refused = new Set(Array.from({ length: 100 }, (_, n) => n))
        const { consumer, handled } = refusing(refused)
        yield* consumer
        yield* Numbers.publishAll([...refused].map((n) => ({ n })))
        yield* settle
        refused.clear()
        const reports = yield* Effect.all([DeadLetters.replay(Numbers), DeadLetters.replay(Numbers)], {
          concurrency: 2
        })
        yield* settle
        assert.strictEqual(reports[0].replayed + reports[1].replayed, 100)
        assert.strictEqual(handled.length, 100)
      })
    )
  )

  it.effect("are purged for good", () =>
    onMemory(
      Effect.gen(function* () {
        const { consumer } = refusing(new Set([1, 2, 3]))
        yield* consumer
        yield* Numbers.publishAll([{ n: 1 }, { n: 2 }, { n: 3 }])
        yield* settle
        const first = (yield* all())[0]?.id ?? ""
        assert.strictEqual(yield* DeadLetters.purge(Numbers, { ids: [first] }), 1)
        assert.strictEqual(yield* DeadLetters.purge(Numbers), 2)
        assert.deepStrictEqual(yield* all(), [])
      })
    )
  )
})

describe("dead letters that are hard to handle", () => {
  const broken = Topic.make("numbers", {
    schema: Schema.Struct({ n: Schema.Number }),
    version: 2,
    upcast: {
      1: Topic.upcast(Schema.Struct({ n: Schema.Number }), () => {
        throw new Error("upcast bug")
      })
    }
  })

  it.effect("are listed and purged although their upcast dies", () =>
    onMemory(
      Effect.gen(function* () {
        yield* Consumer.make(broken, () => Effect.void, { group: "g", onDefect: Consumer.deadLetter })
        yield* publish(1)
        yield* settle
        const [letter] = yield* Stream.runCollect(DeadLetters.list(broken))
        assert.isTrue(letter !== undefined && Result.isFailure(letter.value))
        assert.include(String(letter?.value), "upcast bug")
        assert.strictEqual(yield* DeadLetters.purge(broken), 1)
      })
    )
  )

  it.effect("are not touched where a limit is no number", () =>
    onMemory(
      Effect.gen(function* () {
        yield* refusing(new Set([1])).consumer
        yield* publish(1)
        yield* settle
        for (const wrong of [
          Effect.asVoid(DeadLetters.purge(Numbers, { limit: Number.NaN })),
          Effect.asVoid(DeadLetters.replay(Numbers, { limit: -1 })),
          Effect.asVoid(DeadLetters.replay(Numbers, { maxReplays: Number.NaN })),
          Stream.runDrain(DeadLetters.list(Numbers, { limit: 0.5 }))
        ]) {
          assert.match(String(yield* Effect.exit(wrong)), /InvalidOption.*must be a whole number from 0/)
        }
        assert.strictEqual((yield* all()).length, 1)
      })
    )
  )

  it.effect("do not keep a replay that is interrupted while the broker does not answer", () => {
    const change = (driver: Driver.Driver): Driver.Driver =>
      driver.deadLetters === undefined
        ? driver
        : { ...driver, deadLetters: { ...driver.deadLetters, move: () => Effect.never } }
    return Effect.gen(function* () {
      yield* refusing(new Set([1])).consumer
      yield* publish(1)
      yield* settle
      const replaying = yield* Effect.forkChild(DeadLetters.replay(Numbers))
      yield* settle
      const interrupting = yield* Effect.forkDetach(Fiber.interrupt(replaying))
      yield* settle
      assert.isDefined(interrupting.pollUnsafe())
      assert.strictEqual((yield* all()).length, 1)
    }).pipe(Effect.provide(changedDriver(change)))
  })
})

describe("a dead letter that cannot be written", () => {
  /** A memory broker that refuses dead letters until it is told otherwise. */
  const refusingLetters = Effect.sync(() => {
    const state = { refuse: true, tries: 0 }
    const error = new Broker.BrokerError({
      broker: "test",
      operation: "publish",
      reason: new Broker.Unavailable({ detail: "no room" })
    })
    const change = (driver: Driver.Driver): Driver.Driver => ({
      ...driver,
      publish: (messages) => {
        if (messages[0]?.destination._tag !== "DeadLetters" || !state.refuse) return driver.publish(messages)
        state.tries++
        return Effect.succeed(messages.map(() => ({ _tag: "Failed", error })))
      }
    })
    return {
      state,
      layer: Layer.effect(Broker.Broker, Effect.map(Broker.Broker, change)).pipe(Layer.provide(Memory.layer()))
    }
  })

  it.effect("keeps its message and its slot, and is written again without another run", () =>
    Effect.gen(function* () {
      const { layer, state } = yield* refusingLetters
      yield* Effect.gen(function* () {
        let runs = 0
        const consumer = yield* Consumer.make(
          Numbers,
          () => {
            runs++
            return Effect.fail(new Refused())
          },
          { group: "g", concurrency: 1, lease: "1 second", onError: { Refused: Consumer.deadLetter } }
        )
        yield* publish(1)
        yield* TestClock.adjust("1 minute")
        assert.isAbove(state.tries, 3)
        assert.deepInclude(yield* balanced(consumer), { running: 1, lost: 0 })
        assert.strictEqual((yield* consumer.health).status, "unreachable")
        state.refuse = false
        yield* TestClock.adjust("1 minute")
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 1 })
        assert.strictEqual(runs, 1)
        assert.strictEqual((yield* consumer.health).status, "consuming")
      }).pipe(Effect.provide(layer))
    })
  )

  it.effect("keeps its message also where the driver answers nothing", () => {
    const change = (driver: Driver.Driver): Driver.Driver => ({
      ...driver,
      publish: (messages) =>
        messages[0]?.destination._tag === "DeadLetters" ? Effect.succeed([]) : driver.publish(messages)
    })
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Refused()), {
        group: "g",
        shutdownDeadline: 0,
        onError: { Refused: Consumer.deadLetter }
      })
      yield* publish(1)
      yield* settle
      assert.deepInclude(yield* balanced(consumer), { running: 1, deadLettered: 0 })
    }).pipe(Effect.provide(changedDriver(change)))
  })

  it.effect("gives its message back when the consumer closes meanwhile", () =>
    Effect.gen(function* () {
      const { layer } = yield* refusingLetters
      yield* Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Refused()), {
          group: "g",
          onError: { Refused: Consumer.deadLetter }
        })
        yield* publish(1)
        yield* settle
        const report = yield* consumer.drain({ deadline: 0 })
        assert.deepInclude(report, { released: 1, unsettled: [] })
        const attempts: Array<number> = []
        yield* Consumer.make(Numbers, (_, { attempt }) => Effect.sync(() => attempts.push(attempt)), { group: "g" })
        yield* settle
        assert.deepStrictEqual(attempts, [1])
      }).pipe(Effect.provide(layer))
    })
  )
})

describe("onDeadLetter", () => {
  it.effect("hears of a letter that is written, before its message is acknowledged; its failure changes nothing", () =>
    onMemory(
      Effect.gen(function* () {
        const heard: Array<readonly [reason: string | undefined, letters: number, acknowledged: number]> = []
        const consumer: Consumer.RunningConsumer = yield* Consumer.make(Numbers, () => Effect.fail(new Refused()), {
          group: "g",
          onError: { Refused: Consumer.deadLetter },
          onDeadLetter: (message) =>
            Effect.gen(function* () {
              const letters = yield* all()
              const { deadLettered } = yield* consumer.accounting
              heard.push([message.death?.reason, letters.length, deadLettered])
              return yield* Effect.fail("not interested")
            }).pipe(Effect.provide(context))
        })
        const context = yield* Effect.context<Broker.Broker<Memory.Abilities>>()
        yield* publish(1)
        yield* settle
        assert.deepStrictEqual(heard, [["decision", 1, 0]])
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 1 })
      })
    )
  )
})
