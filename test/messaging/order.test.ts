/** Order by key: within one consumer, over retries, and between members of a group. */
import { assert, describe, it } from "@effect/vitest"
import { Context, type Duration, Effect, Layer, Schedule } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import type { Driver } from "millrace"
import { Broker, Consumer } from "millrace"
import { Memory } from "millrace/memory"
import { FaultyBroker, whileTimePasses } from "millrace/testing"
import { Busy, balanced, gate, Numbers, onMemory, publish, settle, settleAll } from "./support.ts"

const soon = Schedule.spaced("1 second")

describe("order by key", () => {
  it.effect("runs a key one at a time and in order, and other keys meanwhile", () =>
    onMemory(
      Effect.gen(function* () {
        const first = yield* gate
        const begun: Array<number> = []
        yield* Consumer.make(
          Numbers,
          ({ n }) =>
            Effect.andThen(
              Effect.sync(() => begun.push(n)),
              n === 1 ? first.pass : Effect.void
            ),
          { group: "g", order: "key" }
        )
        yield* publish(1, "a")
        yield* publish(2, "a")
        yield* publish(3, "b")
        yield* settle
        assert.deepStrictEqual(begun, [1, 3])
        yield* first.open
        yield* settle
        assert.deepStrictEqual(begun, [1, 3, 2])
      })
    )
  )

  it.effect("takes messages of other keys as long as a handler is idle and there is room", () =>
    onMemory(
      Effect.gen(function* () {
        const first = yield* gate
        const begun: Array<string> = []
        yield* Consumer.make(
          Numbers,
          ({ key = "" }) => {
            begun.push(key)
            return key === "a" ? first.pass : Effect.void
          },
          { group: "g", order: "key", concurrency: 2 }
        )
        // More than half of what may be held.
        for (let n = 0; n < 40; n++) yield* publish(n, "a")
        yield* settle
        yield* publish(1, "b")
        yield* settle
        assert.deepStrictEqual(begun, ["a", "b"])
        yield* first.open
      })
    )
  )

  it.effect("keeps those of a key waiting while one of them is tried again later", () =>
    onMemory(
      Effect.gen(function* () {
        const handled: Array<string> = []
        const consumer = yield* Consumer.make(
          Numbers,
          ({ key, n }, message) => {
            handled.push(`${key}${n}.${message.attempt}`)
            return key === "a" && n === 1 && message.attempt < 3 ? Effect.fail(new Busy({ after: 1 })) : Effect.void
          },
          { group: "g", order: "key", onError: { Busy: Consumer.retry(soon) } }
        )
        for (const n of [1, 2, 3]) yield* publish(n, "a")
        yield* publish(1, "b")
        yield* settle
        assert.deepStrictEqual(handled, ["a1.1", "b1.1"])
        yield* publish(4, "a")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(handled.slice(2), ["a1.2"])
        yield* TestClock.adjust("1 second")
        yield* settle
        assert.deepStrictEqual(handled.slice(3), ["a1.3", "a2.1", "a3.1", "a4.1"])
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 5, retried: 2, lost: 0 })
      })
    )
  )

  it.effect("holds where the broker has taken a retry and not yet the releases behind it", () => {
    /** Does retries at once, and everything else a second later. */
    const slowly = (inner: Driver.Subscription): Driver.Subscription["settle"] =>
      Effect.fnUntraced(function* (settlements) {
        const answers = new Map<Driver.Delivery, Driver.Settled>()
        const [retries, others] = [true, false].map((are) =>
          settlements.filter(({ _tag }) => (_tag === "Retry") === are)
        )
        for (const part of [retries ?? [], others ?? []]) {
          const answered = yield* inner.settle(part)
          part.forEach(({ delivery }, index) => answers.set(delivery, answered[index] ?? "Lost"))
          yield* Effect.sleep("1 second")
        }
        return settlements.map(({ delivery }) => answers.get(delivery) ?? "Lost")
      })
    const slow = Layer.flatMap(Memory.layer(), (context) => {
      const driver = Context.get(context, Broker.Broker)
      const subscribe: Driver.Driver["subscribe"] = (options) =>
        Effect.map(driver.subscribe(options), (inner) => ({ ...inner, settle: slowly(inner) }))
      return Layer.succeedContext(Context.add(context, Broker.Broker, { ...driver, subscribe }))
    })
    return Effect.gen(function* () {
      const handled: Array<number> = []
      for (const n of [1, 2, 3]) yield* publish(n, "a")
      const consumer = yield* Consumer.make(
        Numbers,
        ({ n }, message) => {
          if (n === 1 && message.attempt === 1) return Effect.fail(new Busy({ after: 1 }))
          handled.push(n)
          return Effect.void
        },
        {
          group: "g",
          order: "key",
          replay: "earliest",
          onError: { Busy: Consumer.retry(Schedule.spaced("100 millis")) }
        }
      )
      yield* TestClock.adjust("50 millis")
      // They come together with the first, since those between them are still held.
      for (const n of [4, 5]) yield* publish(n, "a")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(handled, [1, 2, 3, 4, 5])
      yield* whileTimePasses(consumer.drain())
      yield* balanced(consumer)
    }).pipe(Effect.provide(slow))
  })

  describe("holds where a lease was given up", () => {
    const faulty = FaultyBroker.make({ seed: 1, rates: { renew: { failBefore: 1 } } })
    /** The first handler of the first message runs `first`, and the second comes after `pause`, by the test clock. */
    const check = (first: Effect.Effect<void>, pause: Duration.Input) =>
      Effect.gen(function* () {
        const handled: Array<string> = []
        yield* Consumer.make(
          Numbers,
          ({ n }) =>
            Effect.gen(function* () {
              handled.push(`begin ${n}`)
              if (n === 1 && handled.length === 1) yield* first
              handled.push(`end ${n}`)
            }),
          { group: "g", order: "key", lease: "12 seconds", shutdownDeadline: 0 }
        )
        yield* publish(1, "a")
        yield* TestClock.adjust(pause)
        yield* publish(2, "a")
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(handled, ["begin 1", "begin 1", "end 1", "begin 2", "end 2"])
      }).pipe(Effect.provide(faulty.layer(Memory.layer())))

    // The lease of the second ends later than that of the first.
    it.effect("before the broker ends it", () => check(Effect.never, "6 seconds"))

    // It sleeps by the test clock too: what is needed is a handler that outlives its lease and is not stopped.
    it.effect("and its handler goes on until the broker has ended it", () =>
      check(Effect.uninterruptible(Effect.sleep("15 seconds")), 0)
    )
  })

  it.effect("lets other keys flow past one that is slow and has more messages than the consumer may hold", () =>
    onMemory(
      Effect.gen(function* () {
        const slow = yield* gate
        const handled: Array<string> = []
        const consumer = yield* Consumer.make(
          Numbers,
          ({ key, n }) =>
            Effect.andThen(
              key === "slow" ? slow.pass : Effect.void,
              Effect.sync(() => handled.push(`${key}${n}`))
            ),
          { group: "g", order: "key", concurrency: 4, prefetch: 16 }
        )
        for (let n = 0; n < 50; n++) yield* publish(n, "slow")
        for (let n = 0; n < 50; n++) yield* publish(n, "quick")
        yield* settleAll
        assert.deepStrictEqual(
          handled,
          Array.from({ length: 50 }, (_, n) => `quick${n}`)
        )
        assert.deepInclude(yield* balanced(consumer), { running: 1, queued: 1 })
        yield* slow.open
        yield* settleAll
        assert.deepStrictEqual(
          handled.slice(50),
          Array.from({ length: 50 }, (_, n) => `slow${n}`)
        )
      })
    )
  )

  it.effect("goes on at once when another member has handled what was given back", () => {
    // A broker that takes its time to answer, as those over a network do.
    const slow = Layer.effect(
      Broker.Broker,
      Effect.map(Broker.Broker, (driver) => ({
        ...driver,
        subscribe: (options: Driver.SubscribeOptions) =>
          Effect.map(driver.subscribe(options), (subscription) => ({
            ...subscription,
            settle: (settlements: ReadonlyArray<Driver.Settlement>) =>
              Effect.delay(subscription.settle(settlements), "5 millis")
          }))
      }))
    ).pipe(Layer.provide(Memory.layer())) as Layer.Layer<Broker.Broker<"order">> // what the driver inside can
    return Effect.gen(function* () {
      const handled: Array<string> = []
      const member = (name: string) =>
        Consumer.make(
          Numbers,
          ({ n }, { attempt }) => {
            handled.push(`${name}${n}.${attempt}`)
            return n === 1 && attempt === 1 ? Effect.fail(new Busy({ after: 1 })) : Effect.void
          },
          { group: "g", order: "key", onError: { Busy: Consumer.retry(soon) } }
        )
      const a = yield* member("a")
      yield* publish(1, "k")
      yield* settle
      yield* a.pause
      const b = yield* member("b")
      yield* TestClock.adjust("1020 millis")
      yield* settle
      yield* whileTimePasses(b.drain())
      assert.deepStrictEqual(handled, ["a1.1", "b1.2"])
      yield* a.resume
      yield* settle
      yield* publish(2, "k")
      for (let i = 0; i < 20; i++) yield* TestClock.adjust("5 millis")
      assert.deepStrictEqual(handled.slice(2), ["a2.1"])
      // Given back once at most, since the take that brought it had begun before.
      assert.isAtMost((yield* balanced(a)).received, 3)
    }).pipe(Effect.provide(slow))
  })

  it.effect(
    "holds for random failures, keys and members that come and go",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.array(fc.record({ key: fc.constantFrom("a", "b", "c"), failures: fc.integer({ min: 0, max: 2 }) }), {
              minLength: 1,
              maxLength: 30
            }),
            fc.integer({ min: 1, max: 4 }),
            fc.array(fc.boolean(), { maxLength: 8 }),
            (messages, concurrency, churn) => {
              const handled: Array<{ readonly key: string; readonly n: number }> = []
              const running = new Map<string, number>()
              let overlaps = 0
              const program = Effect.gen(function* () {
                const member = Consumer.make(
                  Numbers,
                  ({ key = "", n }, message) =>
                    Effect.gen(function* () {
                      const together = (running.get(key) ?? 0) + 1
                      running.set(key, together)
                      if (together > 1) overlaps++
                      yield* Effect.ensuring(
                        Effect.sleep("10 millis"),
                        Effect.sync(() => running.set(key, (running.get(key) ?? 0) - 1))
                      )
                      if (message.attempt <= (messages[n]?.failures ?? 0)) return yield* new Busy({ after: 1 })
                      handled.push({ key, n })
                    }),
                  {
                    group: "g",
                    order: "key",
                    concurrency,
                    prefetch: 8,
                    onError: { Busy: Consumer.retry(Schedule.spaced("30 millis")) }
                  }
                )
                yield* member
                const others: Array<Consumer.RunningConsumer> = []
                for (const [n, { key }] of messages.entries()) yield* publish(n, key)
                for (const join of churn) {
                  yield* TestClock.adjust("15 millis")
                  if (join) others.push(yield* member)
                  else {
                    const left = others.pop()
                    if (left !== undefined) yield* Effect.forkChild(left.drain({ deadline: "5 millis" }))
                  }
                }
                yield* TestClock.adjust("20 seconds")
              })
              const whole = Effect.scoped(program).pipe(Effect.provide([Memory.layer(), TestClock.layer()]))
              return Effect.runPromise(whole).then(() => {
                assert.strictEqual(overlaps, 0)
                for (const key of ["a", "b", "c"]) {
                  const firsts = [...new Set(handled.filter((one) => one.key === key).map(({ n }) => n))]
                  assert.deepStrictEqual(
                    firsts,
                    [...messages.entries()].filter(([, one]) => one.key === key).map(([n]) => n)
                  )
                }
              })
            }
          ),
          { numRuns: 60 }
        )
      ),
    { timeout: 60_000 }
  )
})
