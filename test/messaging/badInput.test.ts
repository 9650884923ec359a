/** Rubbish in: options, envelopes, payloads and headers that nobody should send. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, DeadLetters, Topic } from "millrace"
import { envelope } from "../brokers/support.ts"
import {
  balanced,
  changedDriver,
  crashWithOne,
  endsInTime,
  Numbers,
  onMemory,
  publish,
  Refused,
  scopedInTime,
  settle,
  settleAll
} from "./support.ts"

describe("options of a consumer", () => {
  const wrong: ReadonlyArray<readonly [options: object, problem: RegExp]> = [
    [{ group: "" }, /group must be a name/],
    [{ group: "g", concurrency: 0 }, /concurrency must be a whole number of at least 1 .*got 0/],
    [{ group: "g", prefetch: 1.5 }, /prefetch must be a whole number/],
    [{ group: "g", prefetchBytes: Number.NaN }, /prefetchBytes must be/],
    [{ group: "g", maxAttempts: -1 }, /maxAttempts must be/],
    [{ group: "g", lease: 0 }, /lease must be .* more than zero/],
    [{ group: "g", timeout: "soon" }, /timeout must be a duration/],
    [{ group: "g", shutdownDeadline: Number.NaN }, /shutdownDeadline must be a duration/],
    [{ group: "g", onUndecodable: "ignore" }, /onUndecodable must be one of "deadLetter", "stop"/],
    [{ group: "g", order: "total" }, /order must be "key" or left out/],
    [{ group: "g", replay: "yesterday" }, /replay must be "earliest" or a Date/],
    [{ group: "g", rateLimit: { limit: 0, interval: "1 second" } }, /rateLimit.limit must be/],
    [{ group: "g", rateLimit: null }, /rateLimit.limit must be/],
    [{ group: "g", onDefect: 5 }, /onDefect must be a decision .* it is no decision, but 5/],
    [{ group: "g", onTimeout: Consumer.delay(Number.NaN) }, /onTimeout must be .* given no duration, but NaN/],
    [{ group: "g", onError: Consumer.deadLetter }, /onError must be a function of the error, or have a decision/],
    [{ group: "g", onError: { Busy: Consumer.retry(5 as never) } }, /onError.Busy must be .* given no schedule/],
    [{ group: "g", replay: new Date(Number.NaN) }, /replay must be "earliest" or a Date/]
  ]
  for (const [options, problem] of wrong) {
    it.effect(`${JSON.stringify(options)} are a defect that says what is allowed`, () =>
      onMemory(
        Effect.gen(function* () {
          // What the types would not let through, as a JavaScript program may send it.
          const exit = yield* Effect.exit(Consumer.make(Numbers, () => Effect.void, options as { group: string }))
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
          assert.match(String(exit), problem)
        })
      )
    )
  }
})

describe("options of a consumer of batches", () => {
  const wrong: ReadonlyArray<readonly [options: object, problem: RegExp]> = [
    [
      { group: "g" },
      /Consumer: size must be a whole number of at least 1 [^\n]*, got undefined\nlinger must be a duration [^\n]*; got undefined(?!\n\w+ must)/
    ],
    [{ group: "g", size: 10, linger: 0, prefetch: 5 }, /prefetch must be at least the size of a batch \(10\), got 5/],
    [{ group: "g", size: 10, linger: 0, order: "key" }, /order must be left out/]
  ]
  for (const [options, problem] of wrong) {
    it.effect(`${JSON.stringify(options)} are a defect, and nothing is acknowledged`, () =>
      onMemory(
        Effect.gen(function* () {
          const driver = yield* Broker.Broker
          yield* driver.declare({ topic: "numbers", groups: ["g"] })
          yield* publish(1)
          const wrongly = options as { group: string; size: number; linger: number }
          assert.match(String(yield* Effect.exit(Consumer.makeBatch(Numbers, () => Effect.void, wrongly))), problem)
          assert.strictEqual((yield* driver.backlog({ topic: "numbers", group: "g" })).waiting, 1)
        })
      )
    )
  }
})

describe("an envelope", () => {
  it.effect("with an attempt that nobody has made begins with the first", () =>
    onMemory(
      Effect.gen(function* () {
        const attempts: Array<number> = []
        yield* Consumer.make(Numbers, (_, { attempt }) => Effect.sync(() => attempts.push(attempt)), { group: "g" })
        const driver = yield* Broker.Broker
        for (const attempt of [1e20, -3, 0, 2.7, Number.NaN, 7]) {
          yield* driver.publish([
            {
              envelope: envelope(`id ${attempt}`, { topic: "numbers", attempt }),
              body: new TextEncoder().encode('{"n":1}'),
              destination: { _tag: "Topic", topic: "numbers" }
            }
          ])
        }
        yield* settle
        assert.deepStrictEqual(attempts, [1, 1, 1, 2, 1, 7])
      })
    )
  )
})

describe("a payload", () => {
  for (const [what, body] of [
    ["empty", new Uint8Array()],
    ["no UTF-8", new Uint8Array([0x22, 0xff, 0xfe, 0x22])],
    ["no JSON", new TextEncoder().encode("{")],
    ["null", new TextEncoder().encode("null")]
  ] as const) {
    it.effect(`that is ${what} is set aside as it is, and the next message flows`, () =>
      onMemory(
        Effect.gen(function* () {
          const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
          const driver = yield* Broker.Broker
          yield* driver.publish([
            { envelope: envelope("x", { topic: "numbers" }), body, destination: { _tag: "Topic", topic: "numbers" } }
          ])
          yield* publish(1)
          yield* settle
          assert.deepInclude(yield* balanced(consumer), { deadLettered: 1, acknowledged: 1 })
        })
      )
    )
  }

  it.effect("of any text comes back as it was", () =>
    onMemory(
      Effect.gen(function* () {
        const Text = Topic.make("text", { schema: Schema.String, version: 1 })
        const texts = ["", "\u0000", "☃\u{1f600}", "\u2028", "a".repeat(1_000_000)]
        const got: Array<string> = []
        yield* Consumer.make(Text, (text) => Effect.sync(() => got.push(text)), { group: "g", concurrency: 1 })
        yield* Text.publishAll(texts)
        yield* settle
        assert.deepStrictEqual(got, texts)
      })
    )
  )
})

describe("a handler", () => {
  it.effect("that never returns keeps its message, and the others flow", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, ({ n }) => (n === 1 ? Effect.never : Effect.void), {
          group: "g",
          concurrency: 2,
          shutdownDeadline: 0
        })
        for (const n of [1, 2, 3, 4]) yield* publish(n)
        yield* TestClock.adjust("1 hour")
        assert.deepInclude(yield* balanced(consumer), { running: 1, acknowledged: 3, lost: 0 })
      })
    )
  )

  it.effect("whose message was delivered too often is not run: it may be what kills the process", () =>
    onMemory(
      Effect.gen(function* () {
        let runs = 0
        const first = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
        yield* first.drain()
        yield* publish(1)
        for (let i = 0; i < 3; i++) yield* crashWithOne
        const last = yield* Consumer.make(
          Numbers,
          () => {
            runs++
            return Effect.void
          },
          { group: "g", maxDeliveries: 3 }
        )
        yield* settle
        assert.strictEqual(runs, 0)
        assert.isAtLeast((yield* balanced(last)).deadLettered, 1)
      })
    )
  )

  it.effect("whose message was given back often is run: whoever gives back is alive", () =>
    onMemory(
      Effect.gen(function* () {
        const attempts: Array<number> = []
        const member = Consumer.make(
          Numbers,
          (_, { attempt }) => {
            attempts.push(attempt)
            return attempts.length < 5 ? Effect.never : Effect.void
          },
          { group: "g", shutdownDeadline: 0, maxDeliveries: 3 }
        )
        for (let i = 0; i < 5; i++) {
          const one = yield* member
          if (i === 0) yield* publish(1)
          yield* settle
          yield* one.drain()
        }
        assert.deepStrictEqual(attempts, [1, 1, 1, 1, 1])
      })
    )
  )

  it.effect("with a schedule that dies ends its message as a dead letter", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Refused()), {
          group: "g",
          onError: {
            Refused: Consumer.retry(Schedule.forever.pipe(Schedule.addDelay(() => Effect.die("schedule"))))
          }
        })
        yield* publish(1)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 1 })
      })
    )
  )

  it.effect("with a schedule that does not end gives its message back when the consumer closes", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Refused()), {
          group: "g",
          onError: { Refused: Consumer.retry(Schedule.forever.pipe(Schedule.addDelay(() => Effect.never))) }
        })
        yield* publish(1)
        yield* settle
        const report = yield* endsInTime(consumer.drain({ deadline: 0 }))
        assert.deepInclude(report, { abandoned: [], released: 1 })
        yield* balanced(consumer)
      }).pipe(scopedInTime)
    )
  )

  it.effect("with a decision that cannot be done is a defect that tells both, and its message is tried again", () =>
    onMemory(
      Effect.gen(function* () {
        const seen: Array<string> = []
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Error("the cause of it")), {
          group: "g",
          onError: () => Consumer.delay(Number.NaN),
          onDefect: (cause) => {
            seen.push(Cause.pretty(cause))
            assert.isFalse(cause.reasons.some(Cause.isFailReason))
            return Consumer.deadLetter
          }
        })
        yield* publish(1)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 1 })
        assert.include(seen[0], "what onError answered cannot be done: Consumer.delay was given no duration, but NaN")
        const [letter] = yield* Stream.runCollect(DeadLetters.list(Numbers))
        assert.include(letter?.cause, "given no duration")
        assert.include(letter?.cause, "the cause of it")
      })
    )
  )

  it.effect("that is to be tried again in a time that never comes leaves a dead letter", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, ({ n }) => Effect.fail(n), {
          group: "g",
          maxAttempts: 2000,
          onError: (n) =>
            n === 1
              ? Consumer.delay(Duration.infinity)
              : Consumer.retry(Schedule.spaced("1 second").pipe(Schedule.addDelay(() => Effect.succeed("Infinity"))))
        })
        yield* publish(1)
        yield* publish(2)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 2 })
      })
    )
  )
})

describe("the history of a message", () => {
  const CJK = "錯誤".repeat(2_000)

  it.effect("stays within its bytes in any script, and has no half characters", () =>
    onMemory(
      Effect.gen(function* () {
        yield* Consumer.make(
          Numbers,
          ({ n }) => Effect.fail(new Error(n === 1 ? CJK : `${"x".repeat(996)}\u{1f600}\ud800`)),
          {
            group: "g",
            onError: () => Consumer.retry(Schedule.recurs(15))
          }
        )
        yield* publish(1)
        yield* publish(2)
        yield* settleAll
        const letters = yield* Stream.runCollect(DeadLetters.list(Numbers))
        assert.strictEqual(letters.length, 2)
        for (const { attempts, cause } of letters) {
          assert.isAtMost(Buffer.byteLength(JSON.stringify(attempts)), 9_000)
          assert.isAtMost(Buffer.byteLength(cause), 4_000)
          assert.isTrue(
            JSON.stringify(attempts).isWellFormed() && attempts.every(({ message }) => message.isWellFormed())
          )
          assert.isTrue(cause.isWellFormed())
        }
      })
    )
  )

  /** A broker that takes no letter of more bytes than this. */
  const lettersUpTo = (most: number) =>
    changedDriver((driver) => ({
      ...driver,
      publish: (messages) =>
        messages.some(
          ({ destination, envelope }) =>
            destination._tag === "DeadLetters" && Buffer.byteLength(JSON.stringify(envelope)) > most
        )
          ? Effect.fail(
              new Broker.BrokerError({
                broker: "test",
                operation: "publish",
                reason: new Broker.Rejected({ code: "TooLarge", detail: `at most ${most} bytes` })
              })
            )
          : driver.publish(messages)
    }))

  for (const [what, pad] of [
    ["is left out where the broker takes no letter of that size", "short"],
    ["and the headers are left out where they leave no room for a letter", CJK]
  ] as const) {
    it.effect(what, () =>
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail(new Error(CJK)), {
          group: "g",
          onError: () => Consumer.deadLetter
        })
        yield* Numbers.publish({ n: 1 }, { headers: { pad } })
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { deadLettered: 1 })
        const [letter] = yield* Stream.runCollect(DeadLetters.list(Numbers))
        assert.deepInclude(letter, { reason: "decision", attempts: [] })
        assert.include(letter?.cause, "錯誤")
        assert.deepStrictEqual(letter?.envelope.headers, pad === CJK ? {} : { pad })
        assert.strictEqual(letter?.cause.startsWith("without its headers"), pad === CJK)
      }).pipe(scopedInTime, Effect.provide(lettersUpTo(1_000)))
    )
  }
})
