/** What a consumer does with a message, by how its handler ends. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Broker, Consumer, DeadLetters, Registry, TaskDump, Topic } from "millrace"
import {
  Busy,
  balanced,
  changedDriver,
  changedSubscription,
  gate,
  logged,
  Numbers,
  onMemory,
  publish,
  Refused,
  scopedInTime,
  settle,
  settleAll
} from "./support.ts"

const cut = new Broker.BrokerError({
  broker: "memory",
  operation: "take",
  reason: new Broker.Unavailable({ detail: "the line is cut" })
})

const letters = (group = "g") => Stream.runCollect(DeadLetters.list(Numbers, { group }))

describe("a handler that", () => {
  it.effect("succeeds acknowledges its message, scope included", () =>
    onMemory(
      Effect.gen(function* () {
        const order: Array<string> = []
        const consumer = yield* Consumer.make(
          Numbers,
          ({ n }, message) =>
            Effect.gen(function* () {
              yield* Effect.addFinalizer(() => Effect.sync(() => order.push(`closed ${n}`)))
              order.push(`handled ${n} ${message.topic} ${message.attempt}`)
            }),
          { group: "g" }
        )
        const receipt = yield* publish(1)
        assert.isFalse(receipt.duplicate)
        yield* settle
        assert.deepStrictEqual(order, ["handled 1 numbers 1", "closed 1"])
        const books = yield* balanced(consumer)
        assert.deepInclude(books, { received: 1, acknowledged: 1, queued: 0, running: 0, settling: 0, bytes: 0 })
      })
    )
  )

  it.effect("fails is tried again by its schedule, with the attempt counted and the history kept", () =>
    onMemory(
      Effect.gen(function* () {
        const attempts: Array<number> = []
        const consumer = yield* Consumer.make(
          Numbers,
          (_, message) => {
            attempts.push(message.attempt)
            return Effect.fail(new Busy({ after: 1 }))
          },
          {
            group: "g",
            onError: {
              Busy: Consumer.retry(Schedule.recurs(2).pipe(Schedule.addDelay(() => Effect.succeed("1 second"))))
            }
          }
        )
        yield* publish(1)
        yield* settle
        assert.deepStrictEqual(attempts, [1])
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual(attempts, [1])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(attempts, [1, 2])
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(attempts, [1, 2, 3])
        const [letter, ...more] = yield* letters()
        assert.strictEqual(more.length, 0)
        assert.strictEqual(letter?.reason, "exhausted")
        assert.deepStrictEqual(
          letter?.attempts.map(({ attempt, tag }) => [attempt, tag]),
          [
            [1, "Busy"],
            [2, "Busy"],
            [3, "Busy"]
          ]
        )
        assert.deepInclude(yield* balanced(consumer), { received: 3, retried: 2, deadLettered: 1 })
      })
    )
  )

  it.effect("fails with another error has another decision", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(
          Numbers,
          ({ n }) =>
            n === 1
              ? Effect.fail(new Busy({ after: 5 }) as Busy | Refused)
              : n === 2
                ? Effect.fail(new Refused())
                : Effect.void,
          {
            group: "g",
            onError: { Busy: (error) => Consumer.delay(error.after * 1000), Refused: Consumer.drop("refused") }
          }
        )
        yield* publish(1)
        yield* publish(2)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { received: 2, retried: 1, dropped: 1 })
        yield* TestClock.adjust("4999 millis")
        assert.deepInclude(yield* balanced(consumer), { received: 2 })
        yield* TestClock.adjust("1 millis")
        assert.deepInclude(yield* balanced(consumer), { received: 3 })
      })
    )
  )

  it.effect("dies is tried again and becomes a dead letter, and the next message flows", () =>
    onMemory(
      Effect.gen(function* () {
        const handled: Array<number> = []
        const consumer = yield* Consumer.make(
          Numbers,
          ({ n }) => (n === 1 ? Effect.die(new Error("a bug")) : Effect.sync(() => handled.push(n))),
          { group: "g", concurrency: 1, maxAttempts: 3 }
        )
        yield* publish(1)
        yield* publish(2)
        yield* settle
        assert.deepStrictEqual(handled, [2])
        yield* TestClock.adjust("1 second")
        yield* TestClock.adjust("2 seconds")
        const [letter] = yield* letters()
        assert.strictEqual(letter?.reason, "defect")
        assert.include(letter?.cause, "a bug")
        assert.deepInclude(yield* balanced(consumer), { retried: 2, deadLettered: 1, acknowledged: 1 })
      })
    )
  )

  it.effect("throws before it answers an effect, or interrupts itself, is a defect", () =>
    onMemory(
      Effect.gen(function* () {
        yield* Consumer.make(
          Numbers,
          ({ n }): Effect.Effect<void> => {
            if (n === 1) throw new Error("thrown")
            return Effect.interrupt
          },
          { group: "g", onDefect: Consumer.deadLetter }
        )
        yield* publish(1)
        yield* publish(2)
        yield* settle
        const found = yield* letters()
        assert.deepStrictEqual(
          found.map(({ reason }) => reason),
          ["defect", "defect"]
        )
        assert.include(found[0]?.cause, "thrown")
        assert.include(found[1]?.cause, "interrupted itself")
      })
    )
  )

  it.effect("whose fiber the program interrupts is a defect too, and does not come again for ever", () =>
    onMemory(
      Effect.gen(function* () {
        const interrupted = Effect.withFiber((fiber) => {
          fiber.interruptUnsafe()
          return Effect.never
        })
        const consumer = yield* Consumer.make(Numbers, () => interrupted, {
          group: "g",
          maxAttempts: 3,
          onDefect: Consumer.retry(Schedule.spaced("1 second"))
        })
        const batches = yield* Consumer.makeBatch(Numbers, () => interrupted, {
          group: "batches",
          size: 2,
          linger: "1 second",
          onDefect: Consumer.deadLetter
        })
        yield* publish(1)
        yield* publish(2)
        yield* Effect.repeat(Effect.andThen(settleAll, TestClock.adjust("1 second")), { times: 4 })
        assert.deepInclude(yield* balanced(consumer), { received: 6, retried: 4, deadLettered: 2, released: 0 })
        assert.deepInclude(yield* balanced(batches), { received: 2, deadLettered: 2, released: 0 })
      })
    )
  )

  it.effect("runs longer than its timeout is interrupted, by its own default", () =>
    onMemory(
      Effect.gen(function* () {
        const ends: Array<boolean> = []
        yield* Consumer.make(
          Numbers,
          () => Effect.onExit(Effect.never, (exit) => Effect.sync(() => ends.push(Exit.hasInterrupts(exit)))),
          { group: "g", timeout: "3 seconds", onTimeout: Consumer.deadLetter }
        )
        yield* publish(1)
        yield* TestClock.adjust("3 seconds")
        yield* settle
        assert.deepStrictEqual(ends, [true])
        const [letter] = yield* letters()
        assert.strictEqual(letter?.reason, "timeout")
      })
    )
  )
})

describe("onError", () => {
  it.effect("that dies is a defect of that message", () =>
    onMemory(
      Effect.gen(function* () {
        yield* Consumer.make(Numbers, () => Effect.fail("text"), {
          group: "g",
          onError: () => {
            throw new Error("onError died")
          },
          onDefect: Consumer.deadLetter
        })
        yield* publish(1)
        yield* settle
        const [letter] = yield* letters()
        assert.strictEqual(letter?.reason, "defect")
        assert.include(letter?.cause, "onError died")
      })
    )
  )

  it.effect("and onDefect that die both are answered by the default, and the message stays", () =>
    onMemory(
      Effect.gen(function* () {
        const dies = () => {
          throw new Error("died")
        }
        const consumer = yield* Consumer.make(Numbers, () => Effect.fail("text"), {
          group: "g",
          onError: dies,
          onDefect: dies
        })
        yield* publish(1)
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { retried: 1 })
      })
    )
  )
})

describe("a message that", () => {
  it.effect("cannot be decoded is set aside with its bytes, and the next flows", () =>
    onMemory(
      Effect.gen(function* () {
        const handled: Array<string> = []
        const Words = Topic.make("numbers", { schema: Schema.Struct({ word: Schema.String }), version: 1 })
        yield* Consumer.make(Words, ({ word }) => Effect.sync(() => handled.push(word)), { group: "g" })
        yield* publish(7)
        yield* Words.publish({ word: "next" })
        yield* settle
        assert.deepStrictEqual(handled, ["next"])
        const [letter] = yield* letters()
        assert.strictEqual(letter?.reason, "undecodable")
        assert.strictEqual(new TextDecoder().decode(letter?.raw), '{"n":7}')
      })
    )
  )

  it.effect("cannot be decoded stops a consumer that says so, with nothing lost", () =>
    onMemory(
      Effect.gen(function* () {
        const Words = Topic.make("numbers", { schema: Schema.Struct({ word: Schema.String }), version: 1 })
        const consumer = yield* Consumer.make(Words, () => Effect.void, {
          group: "g",
          onUndecodable: "stop",
          concurrency: 1
        })
        yield* publish(7)
        yield* Words.publish({ word: "next" })
        const error = yield* Effect.flip(consumer.stopped)
        assert.strictEqual(error._tag, "ConsumerStopped")
        assert.include(error.message, "cannot be decoded")
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 0 })
        const handled: Array<string> = []
        yield* Consumer.make(Words, ({ word }) => Effect.sync(() => handled.push(word)), { group: "g" })
        yield* settle
        assert.deepStrictEqual(handled, ["next"])
      })
    )
  )

  it.effect("has an unknown version is given back for later without an attempt", () =>
    onMemory(
      Effect.gen(function* () {
        const V2 = Topic.make("numbers", { schema: Schema.Struct({ n: Schema.Number }), version: 2 })
        const old = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
        yield* V2.publish({ n: 1 })
        yield* settle
        assert.deepInclude(yield* balanced(old), { released: 1, retried: 0 })
        const attempts = yield* Deferred.make<number>()
        yield* old.drain()
        yield* Consumer.make(V2, (_, message) => Deferred.succeed(attempts, message.attempt), { group: "g" })
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* Deferred.await(attempts), 1)
      })
    )
  )

  it.effect("has an older version is brought to the current type", () =>
    onMemory(
      Effect.gen(function* () {
        const V2 = Topic.make("numbers", {
          schema: Schema.Struct({ n: Schema.Number, unit: Schema.String }),
          version: 2,
          upcast: { 1: Topic.upcast(Schema.Struct({ n: Schema.Number }), ({ n }) => ({ n, unit: "m" })) }
        })
        const got = yield* Deferred.make<unknown>()
        yield* Consumer.make(V2, (value) => Deferred.succeed(got, value), { group: "g" })
        yield* publish(3)
        assert.deepStrictEqual(yield* Deferred.await(got), { n: 3, unit: "m" })
      })
    )
  )
})

describe("groups", () => {
  it.effect("each get all messages, and the members of one share them", () =>
    onMemory(
      Effect.gen(function* () {
        const seen: Record<string, Array<number>> = { a: [], b: [], c: [] }
        const consume = (group: string, as: string) =>
          Consumer.make(Numbers, ({ n }) => Effect.sync(() => seen[as]?.push(n)), { group })
        yield* consume("one", "a")
        yield* consume("one", "b")
        yield* consume("two", "c")
        yield* Numbers.publishAll(Array.from({ length: 500 }, (_, n) => ({ n })))
        yield* settle
        const sorted = (ns: ReadonlyArray<number> = []) => ns.toSorted((x, y) => x - y)
        assert.deepStrictEqual(
          sorted([...(seen.a ?? []), ...(seen.b ?? [])]),
          Array.from({ length: 500 }, (_, n) => n)
        )
        assert.deepStrictEqual(
          sorted(seen.c),
          Array.from({ length: 500 }, (_, n) => n)
        )
      })
    )
  )
})

describe("what a person is told", () => {
  it.effect("is each dead letter, each handler that died, and an unknown version once", () =>
    onMemory(
      Effect.gen(function* () {
        const { layer, lines } = yield* logged
        const V2 = Topic.make("numbers", { schema: Schema.Struct({ n: Schema.Number }), version: 2 })
        yield* Consumer.make(
          Numbers,
          ({ n }) => (n === 1 ? Effect.die(new Error("a bug")) : Effect.fail(new Refused())),
          { group: "g", onDefect: Consumer.drop("no more"), onError: { Refused: Consumer.deadLetter } }
        ).pipe(Effect.provide(layer))
        yield* publish(1)
        yield* settle
        yield* publish(2)
        yield* settle
        yield* V2.publishAll([{ n: 3 }, { n: 4 }])
        yield* TestClock.adjust("1 minute")
        const told = lines.map((line) => line.replaceAll(/[0-9a-f-]{36}/g, "ID").split("\n")[0])
        assert.match(told[0] ?? "", /^Error Message ID of numbers\/g: its handler died at attempt 1$/)
        assert.match(told[1] ?? "", /^Info Message ID of numbers\/g was dropped: no more/)
        assert.match(told[2] ?? "", /^Warn Message ID of numbers\/g is a dead letter now \(decision\): Refused/)
        assert.match(told[3] ?? "", /^Warn Message ID of numbers\/g has schema version 2, which is not known here/)
        assert.strictEqual(told.length, 4)
      })
    )
  )

  it.effect("is in a dump: each message that is handled or waits behind its key", () =>
    onMemory(
      Effect.gen(function* () {
        yield* Registry.watch()
        const one = yield* gate
        yield* Consumer.make(Numbers, () => one.pass, { group: "g", order: "key" })
        const { id: first } = yield* publish(1, "k")
        const { id: second } = yield* publish(2, "k")
        yield* settle
        const [head = "", running = "", queued = ""] = (yield* TaskDump.dump).split("\n")
        assert.match(
          head,
          /^Consumer "numbers\/g" \(1 of \d+ slots, backlog 1 of \d+\): 2 received, 1 queued, 1 running/
        )
        // No place of submission: it would be a line of Millrace's own.
        assert.match(running, new RegExp(`^ {2}running +${first} .* key "k" .* old$`))
        assert.match(queued, new RegExp(`^ {2}queued +${second} .* waits for key "k", held by task "${first}"$`))
        yield* one.open
      }).pipe(Effect.provideService(Registry.Registry, Registry.makeUnsafe()))
    )
  )

  it.effect("is in a dump: a broker that does not answer", () =>
    Effect.gen(function* () {
      yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
      yield* settle
      const [head = ""] = (yield* TaskDump.dump).split("\n")
      assert.match(
        head,
        /^Consumer "numbers\/g" \(.*, unreachable: memory: take could not be confirmed: the line is cut\)/
      )
    }).pipe(
      scopedInTime,
      Effect.provide(changedSubscription((subscription) => ({ ...subscription, take: () => Effect.fail(cut) }))),
      Effect.provideService(Registry.Registry, Registry.makeUnsafe())
    )
  )

  it.effect("is in the registry from its subscription on, and leaves it with its report", () => {
    const events: Array<Registry.Event> = []
    return Effect.gen(function* () {
      yield* Registry.watch((event) => events.push(event))
      const subscribing = yield* Effect.forkChild(
        Consumer.make(Numbers, () => Effect.void, { group: "g" }),
        {
          startImmediately: true
        }
      )
      yield* settle
      assert.match(yield* TaskDump.dump, /^Consumer "numbers\/g" \(.*, subscribing\)/)
      yield* TestClock.adjust("1 second")
      const consumer = yield* Fiber.join(subscribing)
      yield* publish(1)
      yield* settle
      const report = yield* consumer.drain()
      assert.deepStrictEqual(
        events.map(({ _tag }) => _tag),
        ["Opened", "Closed"]
      )
      assert.deepInclude(events[1], { report })
      assert.deepInclude(report.accounting, { acknowledged: 1 })
      assert.include(yield* TaskDump.dump, "Nothing is open")
    }).pipe(
      scopedInTime,
      Effect.provide(
        changedDriver((driver) => ({
          ...driver,
          subscribe: (options) => Effect.delay(driver.subscribe(options), "1 second")
        }))
      ),
      Effect.provideService(Registry.Registry, Registry.makeUnsafe())
    )
  })

  it.effect("is not in the registry when it could not subscribe, whether or not its scope goes on", () =>
    Effect.gen(function* () {
      const failed = yield* Effect.exit(Consumer.make(Numbers, () => Effect.void, { group: "g" }))
      assert.isTrue(Exit.isFailure(failed))
      assert.include(yield* TaskDump.dump, "Nothing is open")
    }).pipe(
      scopedInTime,
      Effect.provide(changedDriver((driver) => ({ ...driver, subscribe: () => Effect.fail(cut) }))),
      Effect.provideService(Registry.Registry, Registry.makeUnsafe())
    )
  )
})
