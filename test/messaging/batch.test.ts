/** Consumers of batches: size, linger, and a result for each message. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Result, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Consumer, DeadLetters } from "millrace"
import { Busy, balanced, gate, Numbers, onMemory, publish, Refused, settle } from "./support.ts"

describe("a consumer of batches", () => {
  it.effect("runs full batches at once and the rest after the linger", () =>
    onMemory(
      Effect.gen(function* () {
        const batches: Array<ReadonlyArray<number>> = []
        const consumer = yield* Consumer.makeBatch(
          Numbers,
          (batch) =>
            Effect.sync(() => {
              batches.push(batch.map(({ value }) => value.n))
            }),
          { group: "g", size: 3, linger: "1 second" }
        )
        yield* Numbers.publishAll([0, 1, 2, 3].map((n) => ({ n })))
        yield* settle
        assert.deepStrictEqual(batches, [[0, 1, 2]])
        yield* TestClock.adjust("1 second")
        yield* settle
        assert.deepStrictEqual(batches, [[0, 1, 2], [3]])
        assert.deepInclude(yield* balanced(consumer), { received: 4, acknowledged: 4 })
      })
    )
  )

  it.effect("judges each message by its own result", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.makeBatch(
          Numbers,
          (batch) =>
            Effect.succeed(
              batch.map(({ value }) => (value.n === 1 ? Result.fail(new Refused()) : Result.succeed(value.n)))
            ),
          { group: "g", size: 3, linger: "1 second", onError: { Refused: Consumer.deadLetter } }
        )
        yield* Numbers.publishAll([0, 1, 2].map((n) => ({ n })))
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 2, deadLettered: 1 })
        const [letter] = yield* Stream.runCollect(DeadLetters.list(Numbers))
        assert.deepStrictEqual(letter?.value, Result.succeed({ n: 1 }))
      })
    )
  )

  it.effect("that fails whole tries each of its messages again", () =>
    onMemory(
      Effect.gen(function* () {
        const sizes: Array<number> = []
        const consumer = yield* Consumer.makeBatch(
          Numbers,
          (batch) => {
            sizes.push(batch.length)
            return sizes.length === 1 ? Effect.fail(new Busy({ after: 2 })) : Effect.void
          },
          { group: "g", size: 2, linger: "1 second", onError: { Busy: (error) => Consumer.delay(error.after * 1000) } }
        )
        yield* Numbers.publishAll([{ n: 0 }, { n: 1 }])
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { retried: 2 })
        yield* TestClock.adjust("2 seconds")
        yield* settle
        assert.deepStrictEqual(sizes, [2, 2])
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 2 })
      })
    )
  )

  it.effect("that answers too few results is a defect of its messages", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.makeBatch(Numbers, () => Effect.succeed([Result.succeed(1)]), {
          group: "g",
          size: 2,
          linger: "1 second",
          onDefect: Consumer.deadLetter
        })
        yield* Numbers.publishAll([{ n: 0 }, { n: 1 }])
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 2 })
      })
    )
  )

  it.effect("gives back what it has gathered when it closes, and ends the batch that runs", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const consumer = yield* Consumer.makeBatch(Numbers, () => one.pass, { group: "g", size: 2, linger: "1 minute" })
        yield* Numbers.publishAll([0, 1, 2].map((n) => ({ n })))
        yield* one.begun
        const draining = yield* Effect.forkChild(consumer.drain())
        yield* settle
        yield* one.open
        const report = yield* Fiber.join(draining)
        assert.deepInclude(report, { drained: 2, released: 1 })
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 2, released: 1 })
        yield* publish(9)
      })
    )
  )
})
