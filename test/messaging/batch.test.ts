/** Consumers of batches: size, linger, and a result for each message. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Fiber, Result, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Consumer, DeadLetters } from "millrace"
import {
  Busy,
  balanced,
  changedDriver,
  changedSubscription,
  gate,
  Numbers,
  onMemory,
  publish,
  Refused,
  settle,
  settleAll
} from "./support.ts"

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

  it.effect("goes on without a message that was lost, and stops when all are", () => {
    const lost = new Set<string>()
    const takingAway = changedSubscription((subscription) => ({
      ...subscription,
      renew: (deliveries) =>
        Effect.map(subscription.renew(deliveries), (ends) =>
          ends.map((end, i) => (lost.has(deliveries[i]?.message.envelope.id ?? "") ? "Lost" : end))
        )
    }))
    return Effect.gen(function* () {
      const one = yield* gate
      const causes: Array<Cause.Cause<unknown>> = []
      const consumer = yield* Consumer.makeBatch(
        Numbers,
        () => Effect.onError(one.pass, (cause) => Effect.sync(() => causes.push(cause))),
        { group: "g", lease: "3 seconds", size: 3, linger: "1 second" }
      )
      const receipts = yield* Numbers.publishAll([{ n: 1 }, { n: 2 }, { n: 3 }])
      yield* one.begun
      lost.add(receipts[0]?.id ?? "")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(causes, [])
      yield* one.open
      yield* settle
      assert.deepInclude(yield* balanced(consumer), { lost: 1, acknowledged: 2, retried: 0 })
      const two = yield* gate
      const other = yield* Consumer.makeBatch(
        Numbers,
        () => Effect.onError(two.pass, (cause) => Effect.sync(() => causes.push(cause))),
        { group: "other", lease: "3 seconds", size: 2, linger: "1 second" }
      )
      for (const { id } of yield* Numbers.publishAll([{ n: 4 }, { n: 5 }])) lost.add(id)
      yield* two.begun
      yield* TestClock.adjust("1 second")
      yield* settle
      assert.isTrue(Consumer.isLeaseLost(causes[0] ?? Cause.empty))
      assert.deepInclude(yield* balanced(other), { lost: 2, retried: 0 })
    }).pipe(Effect.provide(takingAway))
  })

  it.effect("does not run a message that was delivered too often", () =>
    onMemory(
      Effect.gen(function* () {
        let runs = 0
        const member = Consumer.makeBatch(
          Numbers,
          () => {
            runs++
            return Effect.never
          },
          { group: "g", size: 1, linger: "1 second", shutdownDeadline: 0, maxDeliveries: 2 }
        )
        const first = yield* member
        yield* publish(1)
        yield* settle
        yield* first.drain()
        for (let i = 0; i < 3; i++) {
          const next = yield* member
          yield* settle
          yield* next.drain()
        }
        assert.strictEqual(runs, 2)
        const [letter] = yield* Stream.runCollect(DeadLetters.list(Numbers))
        assert.strictEqual(letter?.reason, "crashed")
      })
    )
  )

  it.effect("runs as many batches as its concurrency, and fills the next", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const sizes: Array<number> = []
        const consumer = yield* Consumer.makeBatch(
          Numbers,
          (batch) => {
            sizes.push(batch.length)
            return one.pass
          },
          { group: "g", size: 10, linger: "1 hour", concurrency: 12 }
        )
        yield* Numbers.publishAll(Array.from({ length: 119 }, (_, n) => ({ n })))
        yield* settleAll
        assert.deepStrictEqual(
          sizes,
          Array.from({ length: 11 }, () => 10)
        )
        yield* publish(119)
        yield* settleAll
        assert.strictEqual(sizes.length, 12)
        yield* one.open
        yield* settleAll
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 120 })
      })
    )
  )

  it.effect("lets the first of each batch wait for the whole linger", () =>
    onMemory(
      Effect.gen(function* () {
        const sizes: Array<number> = []
        yield* Consumer.makeBatch(
          Numbers,
          (batch) =>
            Effect.sync(() => {
              sizes.push(batch.length)
            }),
          { group: "g", size: 2, linger: "10 seconds" }
        )
        yield* publish(1)
        yield* TestClock.adjust("6 seconds")
        yield* Numbers.publishAll([{ n: 2 }, { n: 3 }])
        yield* TestClock.adjust("6 seconds")
        assert.deepStrictEqual(sizes, [2])
        yield* publish(4)
        yield* settle
        assert.deepStrictEqual(sizes, [2, 2])
      })
    )
  )

  it.effect("acknowledges what was handled although the dead letter of another cannot be written", () => {
    const refusing = changedDriver((driver) => ({
      ...driver,
      publish: (messages) =>
        messages[0]?.destination._tag === "DeadLetters" ? Effect.succeed([]) : driver.publish(messages)
    }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.makeBatch(
        Numbers,
        (batch) =>
          Effect.succeed(batch.map(({ value }) => (value.n === 1 ? Result.fail(new Refused()) : Result.succeed(0)))),
        {
          group: "g",
          size: 3,
          linger: "1 second",
          shutdownDeadline: 0,
          onError: { Refused: Consumer.deadLetter }
        }
      )
      yield* Numbers.publishAll([{ n: 1 }, { n: 2 }, { n: 3 }])
      yield* settle
      assert.deepInclude(yield* balanced(consumer), { running: 1, acknowledged: 2 })
    }).pipe(Effect.provide(refusing))
  })
})
