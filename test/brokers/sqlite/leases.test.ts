/** Leases and times, on the test clock and on clocks that step. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, type Duration, Effect, type Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { Delivery } from "../../../src/messaging/Driver.ts"
import { acknowledge, filename, message, open, subscribe, take, textOf } from "./support.ts"

const lease = 30_000

/** Lets everything that is ready run, in real time. */
const settle = Effect.promise(async () => {
  for (let i = 0; i < 20; i++) await new Promise<void>((resume) => setImmediate(resume))
})

const pass = (duration: Duration.Input) => Effect.andThen(TestClock.adjust(duration), settle)

/** What a `take` has got when everything that is ready has run. */
const polled = <A, E>(fiber: Fiber.Fiber<A, E>): A | undefined => {
  const exit = fiber.pollUnsafe()
  return exit?._tag === "Success" ? exit.value : undefined
}

const twoBrokers = Effect.gen(function* () {
  const here = yield* open()
  const there = yield* open({ filename: here.filename })
  return [here, there] as const
})

describe("leases", () => {
  it.effect("what is not renewed comes back to others when the lease is over, and its owner hears of it", () =>
    Effect.gen(function* () {
      const [here, there] = yield* twoBrokers
      const a = yield* subscribe(here.driver, { lease })
      const b = yield* subscribe(there.driver, { lease })
      yield* here.driver.publish([message("t", "x")])
      const start = Number(yield* Clock.monotonicTimeNanos) / 1e6
      const [x] = yield* take(a)
      if (x === undefined) return assert.fail()
      assert.strictEqual(x.leaseEndsAt, start + lease)
      const lost: Array<Delivery> = []
      yield* Effect.forkScoped(Stream.runForEach(a.lost, (gone) => Effect.sync(() => lost.push(...gone))))
      const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
      yield* pass(lease - 1_000)
      assert.isUndefined(waiting.pollUnsafe())
      assert.deepStrictEqual(lost, [])
      yield* pass(3_000)
      const [again] = polled(waiting) ?? []
      assert.strictEqual(again?.deliveries, 2)
      assert.deepStrictEqual(lost, [x])
      assert.deepStrictEqual(yield* acknowledge(a, [x]), ["Lost"])
      assert.deepStrictEqual(yield* a.renew([x]), ["Lost"])
      if (again !== undefined) assert.deepStrictEqual(yield* acknowledge(b, [again]), ["Settled"])
    })
  )

  it.effect("what is renewed stays, and only that", () =>
    Effect.gen(function* () {
      const [here, there] = yield* twoBrokers
      const a = yield* subscribe(here.driver, { lease })
      const b = yield* subscribe(there.driver, { lease })
      yield* here.driver.publish([message("t", "kept"), message("t", "left")])
      const [kept, left] = yield* take(a)
      if (kept === undefined || left === undefined) return assert.fail()
      const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
      for (let i = 0; i < 10; i++) {
        yield* pass(lease / 3)
        const now = Number(yield* Clock.monotonicTimeNanos) / 1e6
        assert.deepStrictEqual(yield* a.renew([kept]), [now + lease])
      }
      yield* settle
      assert.deepStrictEqual(polled(waiting)?.map(textOf), ["left"])
      assert.deepStrictEqual(yield* acknowledge(a, [kept, left]), ["Settled", "Lost"])
    })
  )

  it.effect("a subscription whose lease somebody has ended begins anew under another number", () =>
    Effect.gen(function* () {
      const { driver, sql } = yield* open()
      const a = yield* subscribe(driver, { lease })
      yield* driver.publish([message("t", "1"), message("t", "2")])
      const [one] = yield* take(a, 1)
      if (one === undefined) return assert.fail()
      const lost: Array<Delivery> = []
      yield* Effect.forkScoped(Stream.runForEach(a.lost, (gone) => Effect.sync(() => lost.push(...gone))))
      // As a sweep of another process does.
      yield* sql`UPDATE millrace_message SET state = 0, owner = 0 WHERE state = 1`
      yield* sql`DELETE FROM millrace_subscriber`
      const taken = yield* take(a)
      assert.deepStrictEqual(taken.map(textOf), ["1", "2"])
      yield* settle
      assert.deepStrictEqual(lost, [one])
      assert.deepStrictEqual(yield* acknowledge(a, [one]), ["Lost"])
      assert.deepStrictEqual(yield* acknowledge(a, taken), ["Settled", "Settled"])
    })
  )

  it.effect("what was claimed for a take that was interrupted goes back when its lease is over", () =>
    Effect.gen(function* () {
      const [here, there] = yield* twoBrokers
      const a = yield* subscribe(here.driver, { lease })
      const b = yield* subscribe(there.driver, { lease })
      yield* here.driver.publish([message("t", "1"), message("t", "2")])
      // The second does not fit into the bytes of the first take.
      assert.strictEqual((yield* take(a, 1)).length, 1)
      const taking = yield* Effect.forkChild(take(b), { startImmediately: true })
      yield* settle
      assert.strictEqual(polled(taking)?.length, 1)
      yield* pass(lease + 2_000)
      const [c] = [yield* subscribe(there.driver, { lease })]
      assert.strictEqual((yield* take(c)).length, 2)
    })
  )
})

describe("delays", () => {
  it.effect("are kept on the clock of the program, also across a restart", () =>
    Effect.gen(function* () {
      const path = yield* filename
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { driver } = yield* open({ filename: path })
          const subscription = yield* subscribe(driver, { lease })
          yield* driver.publish([message("t", "later", { delay: 3_600_000 }), message("t", "now")])
          const [now] = yield* take(subscription)
          if (now === undefined) return assert.fail()
          yield* subscription.settle([
            { _tag: "Retry", delivery: now, delay: 7_200_000, envelope: { ...now.message.envelope, attempt: 2 } }
          ])
        })
      )
      const { driver } = yield* open({ filename: path })
      const subscription = yield* subscribe(driver, { lease })
      const first = yield* Effect.forkChild(take(subscription), { startImmediately: true })
      yield* pass("3599 seconds")
      assert.isUndefined(polled(first))
      yield* pass("1 second")
      assert.deepStrictEqual(polled(first)?.map(textOf), ["later"])
      yield* acknowledge(subscription, polled(first) ?? [])
      const second = yield* Effect.forkChild(take(subscription), { startImmediately: true })
      yield* pass("1 hour")
      assert.deepStrictEqual(
        polled(second)?.map(({ message }) => message.envelope.attempt),
        [2]
      )
    })
  )
})

/** A clock whose wall time can be set, and whose monotonic time goes on. */
class SteppingClock implements Clock.Clock {
  step = 0
  readonly base: Clock.Clock

  constructor(base: Clock.Clock) {
    this.base = base
  }

  /** A restart of the machine: the monotonic clock begins anew. */
  monotonicStep = 0n

  currentTimeMillisUnsafe = () => this.base.currentTimeMillisUnsafe() + this.step
  currentTimeMillis = Effect.sync(() => this.currentTimeMillisUnsafe())
  currentTimeNanosUnsafe = () => BigInt(this.currentTimeMillisUnsafe()) * 1_000_000n
  currentTimeNanos = Effect.sync(() => this.currentTimeNanosUnsafe())
  monotonicTimeNanosUnsafe = () => this.base.monotonicTimeNanosUnsafe() + this.monotonicStep
  monotonicTimeNanos = Effect.sync(() => this.monotonicTimeNanosUnsafe())
  sleep = (duration: Duration.Duration) => this.base.sleep(duration)

  setTime = (millis: number) => Effect.provideService(TestClock.setTime(millis), Clock.Clock, this.base)
  pass = (duration: Duration.Input) => Effect.provideService(pass(duration), Clock.Clock, this.base)
}

const stepping = <A, E, R>(body: (clock: SteppingClock) => Effect.Effect<A, E, R>) =>
  Effect.flatMap(Clock.Clock, (base) => {
    const clock = new SteppingClock(base)
    return Effect.provideService(body(clock), Clock.Clock, clock)
  })

const hour = 3_600_000

describe("a wall clock that steps", () => {
  for (const step of [-hour, hour, -hour * 24 * 365, hour * 24 * 365]) {
    it.effect(`by ${step / hour} hours: no lease is lost, also for a process that starts afterwards`, () =>
      stepping((clock) =>
        Effect.gen(function* () {
          yield* clock.setTime(hour * 24 * 365 * 20)
          const here = yield* open()
          const a = yield* subscribe(here.driver, { lease })
          yield* here.driver.publish([message("t", "x")])
          const [x] = yield* take(a)
          if (x === undefined) return assert.fail()
          yield* clock.pass("1 second")
          clock.step = step
          const there = yield* open({ filename: here.filename })
          const b = yield* subscribe(there.driver, { lease })
          const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
          for (let i = 0; i < 5; i++) {
            yield* clock.pass(lease / 3)
            assert.notStrictEqual((yield* a.renew([x]))[0], "Lost")
          }
          assert.isUndefined(polled(waiting))
          // And without renewal it ends as it would have.
          yield* clock.pass(lease + 2_000)
          assert.deepStrictEqual(polled(waiting)?.map(textOf), ["x"])
        })
      )
    )
  }

  it.effect("back: delayed messages come when they would have, to new processes too", () =>
    stepping((clock) =>
      Effect.gen(function* () {
        yield* clock.setTime(hour * 100)
        const here = yield* open()
        yield* here.driver.declare({ topic: "t", groups: ["g"] })
        yield* here.driver.publish([message("t", "x", { delay: 10_000 })])
        clock.step = -hour
        const there = yield* open({ filename: here.filename })
        const b = yield* subscribe(there.driver)
        const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
        yield* clock.pass("9 seconds")
        assert.isUndefined(polled(waiting))
        yield* clock.pass("2 seconds")
        assert.deepStrictEqual(polled(waiting)?.map(textOf), ["x"])
      })
    )
  )

  it.effect("ahead, as when the machine has slept: delayed messages come when their time has passed", () =>
    stepping((clock) =>
      Effect.gen(function* () {
        yield* clock.setTime(hour * 100)
        const here = yield* open()
        const a = yield* subscribe(here.driver)
        yield* here.driver.publish([message("t", "x", { delay: hour })])
        const waiting = yield* Effect.forkChild(take(a), { startImmediately: true })
        yield* clock.pass("1 second")
        clock.step = 2 * hour
        yield* clock.pass("2 seconds")
        assert.deepStrictEqual(polled(waiting)?.map(textOf), ["x"])
      })
    )
  )

  it.effect("a restart of the machine: times go on where they were, or at the wall clock", () =>
    stepping((clock) =>
      Effect.gen(function* () {
        yield* clock.setTime(hour * 100)
        const path = yield* filename
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { driver } = yield* open({ filename: path })
            yield* driver.declare({ topic: "t", groups: ["g"] })
            yield* driver.publish([message("t", "x", { delay: 60_000 }), message("t", "y", { delay: 3 * hour })])
          })
        )
        clock.monotonicStep = -BigInt(hour * 99) * 1_000_000n
        clock.step = 2 * 60_000
        const { driver } = yield* open({ filename: path })
        const subscription = yield* subscribe(driver)
        const x = yield* take(subscription)
        assert.deepStrictEqual(x.map(textOf), ["x"])
        yield* acknowledge(subscription, x)
        const waiting = yield* Effect.forkChild(take(subscription), { startImmediately: true })
        yield* clock.pass(3 * hour - 3 * 60_000)
        assert.isUndefined(polled(waiting))
        yield* clock.pass(3 * 60_000)
        assert.deepStrictEqual(polled(waiting)?.map(textOf), ["y"])
      })
    )
  )

  it.effect("a restart of a machine that has lost the time: times go on where they were", () =>
    stepping((clock) =>
      Effect.gen(function* () {
        yield* clock.setTime(hour * 100)
        const path = yield* filename
        yield* Effect.scoped(
          Effect.gen(function* () {
            const { driver } = yield* open({ filename: path })
            yield* driver.declare({ topic: "t", groups: ["g"] })
            yield* driver.publish([message("t", "x", { delay: 60_000 })])
          })
        )
        clock.monotonicStep = -BigInt(hour * 99) * 1_000_000n
        clock.step = -2 * hour
        const { driver } = yield* open({ filename: path })
        const waiting = yield* Effect.forkChild(take(yield* subscribe(driver)), { startImmediately: true })
        yield* clock.pass("50 seconds")
        assert.isUndefined(polled(waiting))
        yield* clock.pass("15 seconds")
        assert.deepStrictEqual(polled(waiting)?.map(textOf), ["x"])
      })
    )
  )
})
