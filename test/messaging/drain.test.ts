/** How a consumer closes: what has run is settled, what has not is given back without an attempt. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Schema, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Consumer, Topic } from "millrace"
import { noLeaks, whileTimePasses } from "millrace/testing"
import { Busy, balanced, changedSubscription, gate, Numbers, onMemory, publish, settle } from "./support.ts"

describe("closing a consumer", () => {
  it.effect("with a handler that does not stop is a leak", () =>
    onMemory(
      Effect.gen(function* () {
        const options = { group: "g", shutdownDeadline: 0, shutdownGrace: 0 }
        const begun = yield* Deferred.make<void>()
        const immortal = Effect.andThen(Deferred.succeed(begun, undefined), Effect.uninterruptible(Effect.never))
        const abandoning = Effect.gen(function* () {
          yield* Consumer.make(Numbers, () => immortal, options)
          yield* Numbers.publish({ n: 1 }, { id: "m-1" })
          yield* Deferred.await(begun)
        })
        const leak = String(yield* Effect.exit(whileTimePasses(noLeaks(abandoning))))
        assert.include(leak, 'the handler of message "m-1" of Consumer "numbers/g" was abandoned')
        yield* whileTimePasses(noLeaks(Consumer.make(Numbers, () => Effect.void, { group: "other" })))
      })
    )
  )

  it.effect("lets running handlers end, and gives the rest back at once", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const consumer = yield* Consumer.make(Numbers, () => one.pass, { group: "g", concurrency: 1 })
        for (const n of [1, 2, 3]) yield* publish(n)
        yield* one.begun
        const draining = yield* Effect.forkChild(consumer.drain())
        yield* settle
        const attempts: Array<number> = []
        const other = yield* Consumer.make(Numbers, (_, message) => Effect.sync(() => attempts.push(message.attempt)), {
          group: "g"
        })
        yield* settle
        assert.deepStrictEqual(attempts, [1, 1])
        assert.strictEqual((yield* consumer.health).status, "draining")
        yield* one.open
        const report = yield* Fiber.join(draining)
        assert.deepInclude(report, { drained: 1, released: 2, abandoned: [], unsettled: [] })
        assert.deepInclude(yield* balanced(consumer), { received: 3, acknowledged: 1, released: 2 })
        assert.deepInclude(yield* balanced(other), { received: 2, acknowledged: 2 })
        assert.deepStrictEqual(yield* consumer.drain(), report)
        assert.strictEqual((yield* consumer.health).status, "stopped")
      })
    )
  )

  it.effect("interrupts at the deadline, which is no error of the handler and costs no attempt", () =>
    onMemory(
      Effect.gen(function* () {
        const ends: Array<boolean> = []
        const consumer = yield* Consumer.make(
          Numbers,
          () =>
            Effect.never.pipe(
              Effect.onExit((exit) => Effect.sync(() => ends.push(Exit.hasInterrupts(exit)))),
              Effect.andThen(Effect.fail(new Busy({ after: 0 })))
            ),
          { group: "g", onError: { Busy: Consumer.drop("must not be asked") } }
        )
        yield* publish(1)
        yield* settle
        const draining = yield* Effect.forkChild(consumer.drain({ deadline: "10 seconds" }))
        yield* TestClock.adjust("9 seconds")
        assert.deepStrictEqual(ends, [])
        yield* TestClock.adjust("1 seconds")
        const report = yield* Fiber.join(draining)
        assert.deepStrictEqual(ends, [true])
        assert.deepInclude(report, { drained: 0, released: 1 })
        const attempts: Array<number> = []
        yield* Consumer.make(Numbers, (_, message) => Effect.sync(() => attempts.push(message.attempt)), { group: "g" })
        yield* settle
        assert.deepStrictEqual(attempts, [1])
      })
    )
  )

  it.effect("abandons a handler that does not stop, names it, and leaves its message to its lease", () =>
    onMemory(
      Effect.gen(function* () {
        const stuck = yield* gate
        const consumer = yield* Consumer.make(Numbers, () => Effect.uninterruptible(stuck.pass), {
          group: "g",
          lease: "60 seconds",
          shutdownGrace: "1 second"
        })
        const { id } = yield* publish(1)
        yield* stuck.begun
        const report = yield* whileTimePasses(consumer.drain({ deadline: 0 }))
        assert.deepStrictEqual(report.abandoned, [id])
        assert.deepInclude(yield* balanced(consumer), { received: 1, unsettled: 1, released: 0 })
        const attempts: Array<number> = []
        yield* Consumer.make(Numbers, (_, message) => Effect.sync(() => attempts.push(message.attempt)), { group: "g" })
        yield* TestClock.adjust("50 seconds")
        assert.deepStrictEqual(attempts, [])
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual(attempts, [1])
        yield* stuck.open
        yield* settle
        assert.deepInclude(yield* balanced(consumer), { received: 1, unsettled: 1, acknowledged: 0 })
      })
    )
  )

  it.effect("books as unsettled what it abandons, also where its handler ends while the broker is told", () => {
    const slow = changedSubscription((subscription) => ({
      ...subscription,
      settle: (settlements) => {
        const isAbandoned = settlements.some(({ _tag }) => _tag === "Abandon")
        return Effect.andThen(isAbandoned ? Effect.sleep("500 millis") : Effect.void, subscription.settle(settlements))
      }
    }))
    return Effect.gen(function* () {
      const consumer = yield* Consumer.make(Numbers, () => Effect.uninterruptible(Effect.sleep("1200 millis")), {
        group: "g",
        shutdownGrace: "1 second"
      })
      const { id } = yield* publish(1)
      yield* settle
      const report = yield* whileTimePasses(consumer.drain({ deadline: 0 }))
      assert.deepStrictEqual(report.abandoned, [id])
      assert.deepInclude(report.accounting, { received: 1, unsettled: 1, acknowledged: 0, released: 0 })
    }).pipe(Effect.provide(slow))
  })

  it.effect("happens with the scope, and hands the report to onShutdown", () =>
    onMemory(
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const reports: Array<Consumer.ConsumerReport> = []
        yield* Consumer.make(Numbers, () => Effect.void, {
          group: "g",
          onShutdown: (report) => Effect.sync(() => reports.push(report))
        }).pipe(Scope.provide(scope))
        yield* publish(1)
        yield* settle
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(reports.length, 1)
        assert.include(Consumer.formatReport(reports[0] as Consumer.ConsumerReport), "Of 1 received: 1 acknowledged.")
      })
    )
  )

  it.effect("while paused gives everything back", () =>
    onMemory(
      Effect.gen(function* () {
        const handled: Array<number> = []
        const consumer = yield* Consumer.make(Numbers, ({ n }) => Effect.sync(() => handled.push(n)), { group: "g" })
        yield* consumer.pause
        yield* publish(1)
        yield* settle
        assert.deepStrictEqual(handled, [])
        assert.strictEqual((yield* consumer.health).status, "paused")
        yield* consumer.resume
        yield* settle
        assert.deepStrictEqual(handled, [1])
        yield* consumer.pause
        yield* publish(2)
        const report = yield* consumer.drain()
        assert.strictEqual(report.drained, 0)
        assert.deepStrictEqual(handled, [1])
      })
    )
  )

  it.effect("is refused to its own handler, which may fork it", () =>
    onMemory(
      Effect.gen(function* () {
        const made = yield* Deferred.make<Consumer.RunningConsumer>()
        const defects: Array<string> = []
        const consumer = yield* Consumer.make(
          Numbers,
          ({ n }) =>
            Effect.gen(function* () {
              const own = yield* Deferred.await(made)
              if (n === 1) yield* own.drain()
              else yield* Effect.forkDetach(own.drain())
            }),
          {
            group: "g",
            onDefect: (cause) => {
              defects.push(String(cause))
              return Consumer.drop("tested")
            }
          }
        )
        yield* Deferred.succeed(made, consumer)
        yield* publish(1)
        yield* settle
        assert.include(defects[0], "its own handler would wait for itself; fork it")
        assert.strictEqual((yield* consumer.health).status, "consuming")
        yield* publish(2)
        yield* settle
        assert.deepInclude(yield* consumer.stopped, { released: 0, abandoned: [] })
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 1, dropped: 1 })
      })
    )
  )

  it.effect("by a deadline that is none is a defect", () =>
    onMemory(
      Effect.gen(function* () {
        const consumer = yield* Consumer.make(Numbers, () => Effect.void, { group: "g" })
        const exit = yield* Effect.exit(consumer.drain({ deadline: Number.NaN }))
        assert.match(String(exit), /InvalidOption.*deadline must be a duration/)
        assert.strictEqual((yield* consumer.health).status, "consuming")
      })
    )
  )

  it.effect("because of a message that cannot be read lets the other handlers end", () =>
    onMemory(
      Effect.gen(function* () {
        const one = yield* gate
        const Strict = Topic.make("numbers", {
          schema: Schema.Struct({ n: Schema.Number.check(Schema.isLessThan(10)) }),
          version: 1
        })
        const consumer = yield* Consumer.make(Strict, () => one.pass, { group: "g", onUndecodable: "stop" })
        yield* publish(1)
        yield* one.begun
        yield* publish(99)
        yield* TestClock.adjust("10 seconds")
        assert.deepInclude(yield* balanced(consumer), { running: 1, released: 1 })
        yield* one.open
        assert.strictEqual((yield* Effect.flip(consumer.stopped))._tag, "ConsumerStopped")
        assert.deepInclude(yield* balanced(consumer), { acknowledged: 1, released: 1 })
      })
    )
  )
})
