/**
 * Whoever is told of something may do anything at once: submit, cancel, resume a key, shut the pool down. Each of these
 * was found by trying to break the pool.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Option } from "effect"
import { TestClock } from "effect/testing"
import { Registry, WorkerPool } from "millrace"
import { whileTimePasses } from "millrace/testing"
import { balanced, gate, logged } from "./support.ts"

describe("those who hear of a failure", () => {
  it.effect("may resume the key that it parked", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onKeyFailure: "park" })
      const work = yield* gate
      const failing = yield* pool.submit(Effect.andThen(work.pass, Effect.fail("no")), { key: "k" })
      const behind = yield* pool.submit(Effect.succeed("behind"), { key: "k" })
      const resuming = yield* Effect.forkChild(
        Effect.catch(failing.await, () => pool.resumeKey("k")),
        { startImmediately: true }
      )
      yield* work.open
      yield* Fiber.join(resuming)
      assert.strictEqual(yield* behind.await, "behind")

      yield* pool.fork(Effect.fail("no"), { key: "l", onFailure: () => pool.resumeKey("l") })
      assert.strictEqual(yield* pool.run(Effect.succeed("after onFailure"), { key: "l" }), "after onFailure")
    })
  )

  it.effect("may use the pool: onFailure and finalizers wait as the task that they belong to", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const heard: Array<string> = []
      const tell = Effect.map(Effect.exit(pool.run(Effect.succeed(1))), (exit) =>
        heard.push(Exit.isFailure(exit) ? (String(Cause.squash(exit.cause)).split(":")[0] ?? "") : "ran")
      )
      yield* pool.fork(Effect.fail("no"), { onFailure: () => tell })
      yield* pool.awaitIdle
      yield* pool.fork(Effect.addFinalizer(() => tell))
      yield* pool.awaitIdle
      // Its own slot is the only one: a deadlock, found and survived.
      assert.deepStrictEqual(heard, ["millrace/PoolDeadlock", "millrace/PoolDeadlock"])
      assert.strictEqual(yield* pool.run(Effect.succeed("free")), "free")
    })
  )

  it.effect("are told once, also when the shutdown gives up their task meanwhile", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownGrace: "1 second" })
      let told = 0
      yield* pool.fork(Effect.fail("no"), {
        onFailure: () =>
          Effect.andThen(
            Effect.sync(() => told++),
            Effect.never
          )
      })
      const report = yield* whileTimePasses(pool.shutdown({ deadline: 0 }))
      assert.strictEqual(report.abandoned.length, 1)
      assert.strictEqual(told, 1)
    })
  )
})

describe("shutdown, with others at work", () => {
  it.effect("lets those go who wait for an idle pool, also when its last task was abandoned", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownGrace: 0 })
      yield* pool.submit(Effect.uninterruptible(Effect.never))
      const idle = yield* Effect.forkChild(pool.awaitIdle, { startImmediately: true })
      yield* whileTimePasses(pool.shutdown({ deadline: 0 }))
      yield* Fiber.join(idle)
    })
  )

  it.effect("an earlier deadline asked for while it begins is kept", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, shutdownGrace: "1 second" })
      yield* pool.submit(Effect.uninterruptible(Effect.never))
      yield* pool.submit(Effect.void)
      yield* Effect.forkChild(
        Effect.catchTag(pool.submit(Effect.void), "PoolClosed", () => pool.shutdown({ deadline: 0 })),
        { startImmediately: true }
      )
      const report = yield* whileTimePasses(pool.drain)
      assert.deepInclude(report, { dropped: 1 })
      assert.strictEqual(report.abandoned.length, 1)
    })
  )

  it.effect("counts what it drops, whatever those do who are told, and hands the report on once", () =>
    Effect.gen(function* () {
      const reports: Array<WorkerPool.ShutdownReport> = []
      const pool = yield* WorkerPool.make({
        name: "p",
        concurrency: 1,
        onKeyFailure: "park",
        onShutdown: (report) => Effect.sync(() => reports.push(report))
      })
      const onFailure = () => Effect.void
      yield* pool.fork(Effect.fail("no"), { key: "k", onFailure })
      yield* pool.fork(Effect.void, { key: "k", onFailure })
      yield* pool.fork(Effect.void, { key: "k", onFailure })
      const report = yield* pool.drain
      assert.deepInclude(report, { drained: 0, dropped: 2 })
      assert.strictEqual(report.accounting.dropped, 2)
      assert.isFalse(WorkerPool.isClean(report))
      assert.strictEqual(reports.length, 1)
    })
  )

  it.effect("counts all that it drops, also where the first to be told closes the pool at once", () =>
    Effect.gen(function* () {
      const reports: Array<WorkerPool.ShutdownReport> = []
      const pool = yield* WorkerPool.make({
        name: "p",
        concurrency: 1,
        onKeyFailure: "park",
        onShutdown: (report) => Effect.sync(() => reports.push(report))
      })
      yield* pool.fork(Effect.fail("no"), { key: "k", onFailure: () => Effect.void })
      for (let i = 0; i < 3; i++) {
        const parked = yield* pool.submit(Effect.void, { key: "k" })
        const closing = Effect.catchTag(parked.await, "PoolClosed", () => pool.shutdown({ deadline: 0 }))
        yield* Effect.forkChild(closing, { startImmediately: true })
      }
      const report = yield* pool.drain
      assert.deepInclude(report, { drained: 0, dropped: 3 })
      assert.strictEqual(report.accounting.dropped, 3)
      assert.deepStrictEqual(reports, [report])
    })
  )

  it.effect("counts all that it refuses, also where the first to be told closes the pool at once", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 0 })
      yield* pool.pause
      const closing = Effect.catchTag(pool.submit(Effect.void), "PoolClosed", () => pool.shutdown({ deadline: 0 }))
      yield* Effect.forkChild(Effect.all([closing, closing, closing], { concurrency: 3 }), { startImmediately: true })
      yield* Effect.yieldNow
      assert.strictEqual((yield* pool.accounting).blocked, 3)
      const report = yield* pool.drain
      assert.deepInclude(report, { dropped: 0, refused: 3 })
    })
  )

  it.effect("starts nothing after the deadline, although tasks end while it drops", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      const ran: Array<number> = []
      yield* pool.submit(Effect.never)
      const later: { handle?: WorkerPool.TaskHandle<void, WorkerPool.PoolClosed> } = {}
      yield* pool.submit(
        Effect.andThen(
          Effect.sleep(1),
          Effect.suspend(() => later.handle?.await ?? Effect.void)
        )
      )
      later.handle = yield* pool.submit(Effect.void)
      yield* Effect.forEach([1, 2, 3], (n) => pool.submit(Effect.sync(() => ran.push(n))))
      yield* TestClock.adjust(1)
      const report = yield* pool.shutdown({ deadline: 0 })
      assert.deepStrictEqual(ran, [])
      assert.deepInclude(report, { dropped: 4 })
    })
  )

  it.effect("refuses blocked producers that interrupt each other", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 0, shutdownDeadline: 0 })
      yield* pool.submit(Effect.never)
      const producers = yield* Effect.forkChild(
        Effect.forEach([1, 2, 3, 4], () => pool.submit(Effect.void), { concurrency: "unbounded" }),
        { startImmediately: true }
      )
      yield* Effect.yieldNow
      const report = yield* pool.shutdown()
      yield* Fiber.await(producers)
      assert.deepInclude(report.accounting, { blocked: 0 })
      assert.deepInclude(yield* balanced(pool), { blocked: 0 })
    })
  )

  it.effect("a pause after it has begun changes nothing", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      yield* pool.submit(Effect.void)
      const draining = yield* Effect.forkChild(pool.drain, { startImmediately: true })
      yield* pool.pause
      yield* work.open
      assert.strictEqual((yield* Fiber.join(draining)).drained, 2)
    })
  )

  it.effect("a listener of the registry that throws does not keep the pool from closing", () =>
    Effect.gen(function* () {
      const program = Effect.gen(function* () {
        yield* Registry.watch((event) => {
          if (event._tag === "Closed") throw new Error("listener")
        })
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
        return yield* pool.drain
      })
      const own = Effect.provideService(Effect.scoped(program), Registry.Registry, Registry.makeUnsafe())
      assert.strictEqual((yield* own).pool, "p")
    })
  )
})

describe("circles that something else than a wait closes", () => {
  const dies = (exit: Exit.Exit<unknown, unknown>) =>
    assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof WorkerPool.PoolDeadlock, String(exit))

  it.effect("a pool that goes on after a pause", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const outer = yield* pool.submit(Effect.andThen(pool.pause, pool.run(Effect.void)))
      yield* pool.resume
      dies(yield* outer.exit)
    })
  )

  it.effect("a pool that has fewer slots now", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      const [one, two] = [yield* gate, yield* gate]
      const other = yield* pool.submit(one.pass)
      const outer = yield* pool.submit(Effect.andThen(two.pass, pool.run(Effect.void)))
      yield* two.open
      yield* Effect.yieldNow
      yield* pool.resize(1)
      yield* one.open
      yield* other.await
      dies(yield* outer.exit)
    })
  )

  it.effect("a task that is too heavy beside the one that waits for it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      const work = yield* gate
      const other = yield* pool.submit(work.pass)
      const outer = yield* pool.submit(pool.run(Effect.void, { weight: 2 }))
      yield* work.open
      yield* other.await
      dies(yield* outer.exit)
    })
  )

  it.effect("a finalizer of a cancelled task that needs its own slot", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const handle = yield* pool.submit(
        Effect.onInterrupt(Effect.never, () => Effect.asVoid(Effect.exit(pool.run(Effect.void))))
      )
      yield* handle.cancel
      assert.isTrue(Option.isSome(yield* handle.poll))
    })
  )

  it.effect("a task that cancels itself goes on to its end", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const self: { handle?: WorkerPool.TaskHandle<never, WorkerPool.PoolClosed> } = {}
      const work = yield* gate
      self.handle = yield* pool.submit(
        Effect.onInterrupt(Effect.andThen(work.pass, Effect.never), () => self.handle?.cancel ?? Effect.void)
      )
      yield* self.handle.cancel
      assert.deepInclude(yield* balanced(pool), { interrupted: 1, running: 0 })
    })
  )

  it.effect("a full backlog without slots for its own key", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 1 })
      const exit = yield* Effect.exit(
        pool.run(Effect.andThen(pool.submit(Effect.void, { key: "k" }), pool.submit(Effect.void, { key: "k" })), {
          key: "k"
        })
      )
      dies(exit)
    })
  )

  it.effect("no circle where a place is free and about to be served", () =>
    Effect.gen(function* () {
      const p = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const q = yield* WorkerPool.make({ name: "q", concurrency: 1 })
      const work = yield* gate
      yield* p.submit(work.pass)
      const other: { handle?: WorkerPool.TaskHandle<string, WorkerPool.PoolClosed> } = {}
      const waits = yield* p.submit(Effect.suspend(() => other.handle?.await ?? Effect.succeed("none")))
      other.handle = yield* q.submit(Effect.as(p.submit(Effect.void), "submitted"))
      yield* work.open
      assert.strictEqual(yield* waits.await, "submitted")
    })
  )

  for (const onDeadlock of ["inline", "lend"] as const) {
    it.effect(`${onDeadlock} helps also where a timeout or an expiry would end it in time`, () =>
      Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onDeadlock })
        assert.strictEqual(yield* pool.run(pool.run(Effect.succeed("in")), { timeout: "1 minute" }), "in")
        assert.strictEqual(yield* pool.run(pool.run(Effect.succeed("in"), { expiresIn: "1 minute" })), "in")
      })
    )
  }

  it.live("none among full pools that wait for each other in a row, which are looked at once a step", () =>
    Effect.gen(function* () {
      const first = yield* WorkerPool.make({ name: "first", concurrency: 100, capacity: 1000 })
      const second = yield* WorkerPool.make({ name: "second", concurrency: 100, capacity: 1000 })
      const third = yield* WorkerPool.make({ name: "third", concurrency: 10, capacity: 1000 })
      // With options, so that no task stands for another by being like it.
      const options = { weight: 1 }
      const work = Effect.andThen(Effect.yieldNow, Effect.yieldNow)
      for (let i = 0; i < 2000; i++) {
        yield* first.fork(Effect.orDie(second.fork(Effect.orDie(third.run(work, options)), options)), options)
      }
      yield* first.awaitIdle
      yield* second.awaitIdle
      assert.strictEqual((yield* third.accounting).succeeded, 2000)
    })
  )

  it.effect("very deep nesting under inline does not fill the stack", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onDeadlock: "inline" })
      const down = (n: number): Effect.Effect<number, WorkerPool.PoolClosed> =>
        n === 0 ? Effect.succeed(0) : Effect.map(pool.run(Effect.suspend(() => down(n - 1))), (m) => m + 1)
      assert.strictEqual(yield* down(1000), 1000)
      assert.deepInclude(yield* balanced(pool), { running: 0, queued: 0 })
    })
  )
})

describe("who hears of an outcome may do anything", () => {
  it.effect("who hears of the end of a task drains the pool, and the next of its key runs all the same", () =>
    Effect.gen(function* () {
      for (const close of ["drain", "shutdown"] as const) {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
        const work = yield* gate
        const first = yield* pool.submit(work.pass, { key: "k" })
        const second = yield* pool.submit(Effect.succeed("ran"), { key: "k" })
        const closing = yield* Effect.forkChild(
          Effect.andThen(first.await, close === "drain" ? pool.drain : pool.shutdown({ deadline: "1 minute" })),
          { startImmediately: true }
        )
        yield* work.open
        yield* Fiber.join(closing)
        assert.strictEqual(yield* second.await, "ran")
      }
    })
  )

  it.effect("who hears that its key was stopped resumes it and submits again, which runs", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onKeyFailure: "stop" })
      const work = yield* gate
      const first = yield* pool.submit(Effect.andThen(work.pass, Effect.fail("no")), { key: "k" })
      let tries = 0
      const attempt: Effect.Effect<string, unknown> = Effect.suspend(() =>
        ++tries > 10 ? Effect.die("again and again") : pool.run(Effect.succeed("ran"), { key: "k" })
      ).pipe(
        Effect.catchIf(
          (error) => error instanceof WorkerPool.KeyStopped,
          () => Effect.andThen(pool.resumeKey("k"), attempt)
        )
      )
      const again = yield* Effect.forkChild(attempt, { startImmediately: true })
      yield* work.open
      assert.strictEqual(yield* Effect.flip(first.await), "no")
      assert.strictEqual(yield* Fiber.join(again), "ran")
      assert.strictEqual(tries, 2)
      assert.deepInclude(yield* balanced(pool), { running: 0, queued: 0, succeeded: 1, failed: 1, dropped: 1 })
    })
  )

  it.effect("who hears that a queued task was cancelled submits, behind the producer that waits for its place", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const work = yield* gate
      const ran: Array<string> = []
      const running = yield* pool.submit(work.pass)
      const queued = yield* pool.submit(Effect.void)
      const blocked = yield* Effect.forkChild(pool.submit(Effect.sync(() => ran.push("blocked"))), {
        startImmediately: true
      })
      const later = yield* Effect.forkChild(
        Effect.andThen(Effect.exit(queued.await), pool.submit(Effect.sync(() => ran.push("later")))),
        { startImmediately: true }
      )
      yield* queued.cancel
      yield* work.open
      yield* running.await
      yield* Fiber.join(blocked)
      yield* Effect.flatten(Effect.map(Fiber.join(later), (handle) => handle.await))
      assert.deepStrictEqual(ran, ["blocked", "later"])
      yield* balanced(pool)
    })
  )

  it.effect("a producer that is let in goes on when the slots are filled, and finds all places that became free", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 4, capacity: 4 })
      const work = yield* gate
      const queued: Array<number> = []
      const producer = yield* Effect.forkChild(
        Effect.gen(function* () {
          for (let i = 0; i < 4; i++) yield* pool.submit(work.pass)
          for (let i = 0; i < 9; i++) {
            yield* pool.submit(Effect.never)
            queued.push((yield* pool.accounting).queued)
          }
        }),
        { startImmediately: true }
      )
      assert.deepInclude(yield* balanced(pool), { running: 4, queued: 4, blocked: 1 })
      yield* work.open
      while (queued.length < 8) yield* Effect.yieldNow
      // The four that were queued took the four slots, and then the producer had their places one after the other.
      assert.deepStrictEqual(queued, [1, 2, 3, 4, 1, 2, 3, 4])
      yield* Fiber.interrupt(producer)
      yield* pool.shutdown({ deadline: 0 })
    })
  )

  for (const capacity of [0, 1, 2]) {
    it.effect(`a task that starts may interrupt the producer that is next, with a capacity of ${capacity}`, () =>
      Effect.gen(function* () {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity })
        const work = yield* gate
        let ran = false
        yield* pool.submit(work.pass)
        for (let i = 1; i < capacity; i++) yield* pool.submit(Effect.void)
        const interrupts = yield* Effect.forkChild(
          pool.submit(Effect.suspend(() => Effect.sync(() => producer.interruptUnsafe()))),
          { startImmediately: true }
        )
        const producer: Fiber.Fiber<unknown, unknown> = yield* Effect.forkChild(
          pool.submit(Effect.suspend(() => Effect.sync(() => (ran = true)))),
          { startImmediately: true }
        )
        yield* work.open
        yield* Fiber.join(interrupts)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(producer)))
        yield* pool.awaitIdle
        // Interrupted while it waits for a place, the work was never accepted.
        assert.isFalse(ran)
        assert.deepInclude(yield* balanced(pool), { accepted: Math.max(2, capacity + 1), interrupted: 0 })
      })
    )
  }

  it.effect("of several slots that became free, the second is for a producer with a more urgent task", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 2 })
      const work = yield* gate
      const order: Array<string> = []
      const say = (name: string) =>
        Effect.andThen(
          Effect.sync(() => order.push(name)),
          Effect.yieldNow
        )
      yield* Effect.forEach([1, 2], () => pool.submit(work.pass))
      yield* pool.submit(say("first"))
      yield* pool.submit(say("second"))
      const urgent = yield* Effect.forkChild(pool.submit(say("urgent"), { priority: 1 }), { startImmediately: true })
      yield* work.open
      yield* Fiber.join(urgent)
      yield* pool.awaitIdle
      assert.deepStrictEqual(order, ["first", "urgent", "second"])
    })
  )

  it.effect("a task that has a slot begins before another pool starts one in a slot that was lent", () =>
    Effect.gen(function* () {
      const a = yield* WorkerPool.make({ name: "a", concurrency: 1, capacity: 1 })
      const b = yield* WorkerPool.make({ name: "b", concurrency: 2, onDeadlock: "lend" })
      const [toX, toW, toQ] = [yield* gate, yield* gate, yield* gate]
      const handles: Partial<Record<"q" | "t", WorkerPool.TaskHandle<void, WorkerPool.PoolClosed>>> = {}
      const of = <A, E>(effect: () => Effect.Effect<A, E> | undefined) =>
        Effect.suspend(() => effect() ?? Effect.die("too early"))
      yield* a.submit(
        Effect.andThen(
          toX.pass,
          of(() => handles.q?.await)
        )
      )
      yield* b.submit(Effect.andThen(toW.pass, a.submit(Effect.sync(() => 1))))
      handles.q = yield* b.submit(toQ.pass, { weight: 2 })
      const r = yield* b.submit(of(() => handles.t?.cancel))
      handles.t = yield* a.submit(Effect.never)
      yield* toX.open
      yield* toW.open
      // One of b waits for a place in a, whose task waits for q, which has no slot: a circle, so b lends one.
      yield* toQ.begun
      // x ends, t has its slot, the producer of b is let in and gives the lent slot back, which starts r.
      yield* toQ.open
      yield* r.await
      assert.isTrue(Exit.hasInterrupts(yield* handles.t.exit))
      yield* Effect.forEach([a, b], (pool) => pool.awaitIdle)
      yield* Effect.forEach([a, b], balanced)
    })
  )

  it.effect("a long chain of tasks that wait for each other is interrupted without filling the stack", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 50_000 })
      const chain = (n: number): Effect.Effect<never, WorkerPool.PoolClosed> =>
        n === 0 ? Effect.never : pool.run(Effect.suspend(() => chain(n - 1)))
      const outermost = yield* Effect.forkChild(pool.run(chain(5000)), { startImmediately: true })
      while ((yield* pool.accounting).running < 5001) yield* Effect.yieldNow
      yield* Fiber.interrupt(outermost)
      assert.deepInclude(yield* balanced(pool), { running: 0, interrupted: 5001 })
    })
  )

  it.effect("many blocked producers that cancel what they were let in with do not fill the stack", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const work = yield* gate
      const running = yield* pool.submit(work.pass)
      const queued = yield* pool.submit(Effect.void)
      const producers = yield* Effect.forEach(
        Array.from({ length: 5000 }),
        () =>
          Effect.forkChild(
            Effect.flatMap(pool.submit(Effect.void), (handle) => handle.cancel),
            { startImmediately: true }
          ),
        { concurrency: 1 }
      )
      yield* queued.cancel
      yield* Effect.forEach(producers, Fiber.join)
      yield* work.open
      yield* running.await
      assert.deepInclude(yield* balanced(pool), { running: 0, queued: 0, interrupted: 5001 })
    })
  )
})

describe("what nobody else would serve", () => {
  const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })
  const settle = Effect.replicateEffect(Effect.yieldNow, 20, { discard: true })

  it.effect("the next producer of a key, when the one before it was handed to a slot", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 1, capacityPerKey: 1 })
      const [a, b, c] = [yield* gate, yield* gate, yield* gate]
      yield* pool.submit(a.pass, { key: "other" })
      yield* pool.submit(b.pass, { key: "k" })
      yield* pool.submit(c.pass, { key: "k" })
      const producers = yield* start(
        Effect.all(
          ["other", "k", "k"].map((key) => pool.submit(Effect.void, { key })),
          { concurrency: 3 }
        )
      )
      for (const work of [b, c, a]) yield* Effect.andThen(work.open, settle)
      yield* Fiber.join(producers)
    })
  )

  it.effect("producers of a key keep their order, whoever comes while a place is being handed over", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 10, capacityPerKey: 1 })
      const work = yield* gate
      const ran: Array<string> = []
      const append = (what: string) =>
        pool.submit(
          Effect.sync(() => ran.push(what)),
          { key: "k" }
        )
      yield* pool.submit(work.pass, { key: "k" })
      const queued = yield* pool.submit(Effect.void, { key: "k" })
      const first = yield* start(append("first"))
      const later = yield* start(Effect.andThen(Effect.exit(queued.await), append("later")))
      yield* queued.cancel
      yield* work.open
      yield* Fiber.joinAll([first, later])
      yield* pool.awaitIdle
      assert.deepStrictEqual(ran, ["first", "later"])
    })
  )

  it.effect("a task of higher priority that fits, behind one that is too heavy", () =>
    Effect.gen(function* () {
      for (const capacity of [0, 10]) {
        const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity })
        const work = yield* gate
        yield* pool.submit(work.pass)
        const heavy = yield* start(Effect.andThen(pool.submit(Effect.void, { weight: 2 }), Effect.void))
        assert.strictEqual(yield* pool.run(Effect.as(Effect.yieldNow, "ran"), { priority: 1 }), "ran")
        yield* work.open
        yield* Fiber.join(heavy)
      }
    })
  )

  it.effect("a producer of a key, behind a task that ran out of its turn and ended at once", () =>
    Effect.gen(function* () {
      const options = { concurrency: 2, capacity: 1, capacityPerKey: 1, onDeadlock: "inline" } as const
      const pool = yield* WorkerPool.make({ name: "p", ...options })
      const work = yield* gate
      // Too heavy for the slot that is free when the other task has ended: then its wait turns out to be in vain.
      yield* pool.submit(work.pass)
      yield* pool.submit(pool.run(Effect.void, { key: "k", weight: 2 }))
      const behind = yield* start(pool.submit(Effect.succeed("behind"), { key: "k" }))
      yield* work.open
      assert.strictEqual(yield* (yield* Fiber.join(behind)).await, "behind")
    })
  )

  it.effect("a producer that is refused while its wait is looked at", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, onDeadlock: "lend" })
      const work = yield* gate
      const outer = yield* pool.submit(
        Effect.andThen(
          work.pass,
          Effect.flatMap(pool.submit(Effect.void), (one) => one.await)
        )
      )
      // The slot that is lent starts this one, which turns away whoever waits for a place.
      yield* pool.submit(Effect.andThen(start(pool.drain), Effect.yieldNow))
      yield* start(Effect.exit(pool.submit(Effect.void)))
      yield* work.open
      assert.isTrue(Exit.isFailure(yield* outer.exit))
    })
  )

  it.effect("a pool that becomes idle while a wait for that is looked at", () =>
    Effect.gen(function* () {
      const one = yield* WorkerPool.make({ name: "one", concurrency: 1, capacity: 0, onDeadlock: "inline" })
      const two = yield* WorkerPool.make({ name: "two", concurrency: 1, capacity: 0 })
      const work = yield* gate
      const waits = yield* one.submit(Effect.andThen(work.pass, two.awaitIdle))
      yield* two.submit(one.run(Effect.void))
      yield* settle
      yield* work.open
      yield* waits.await
    })
  )

  it.effect("a circle of a key that a timeout closes, also where others run, and two at the same time", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 3 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const circle = (key: string) =>
        pool.submit(Effect.uninterruptible(pool.run(Effect.void, { key })), { key, timeout: 30 })
      const circles = [yield* circle("a"), yield* circle("b")]
      yield* TestClock.adjust(30)
      for (const one of circles) assert.isTrue(Exit.isFailure(yield* one.exit))
      yield* work.open
    })
  )

  it.effect("a task that is too light for its place: behind a producer, behind one that may expire", () =>
    Effect.gen(function* () {
      const none = yield* WorkerPool.make({ name: "none", concurrency: 2, capacity: 0 })
      const work = yield* gate
      const stuck = yield* none.submit(Effect.andThen(work.pass, none.run(Effect.void)))
      const heavy = yield* start(none.submit(Effect.void, { weight: 2 }))
      yield* work.open
      assert.isTrue(Exit.hasDies(yield* stuck.exit))
      yield* Fiber.join(heavy)

      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      const [other, more] = [yield* gate, yield* gate]
      yield* pool.submit(other.pass)
      const waits = yield* pool.submit(Effect.andThen(more.pass, pool.run(Effect.succeed("ran"))))
      yield* pool.submit(Effect.void, { weight: 2, expiresIn: 30 })
      yield* more.open
      yield* other.open
      yield* settle
      yield* TestClock.adjust(30)
      assert.strictEqual(yield* waits.await, "ran")
    })
  )

  it.effect("a circle through a place of a key that is kept for one who waits for a place in the backlog", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1, capacityPerKey: 1 })
      const work = yield* gate
      const outer = yield* pool.submit(Effect.andThen(work.pass, pool.run(Effect.void, { key: "k" })))
      const queued = yield* pool.submit(Effect.void, { key: "k" })
      const producers = []
      for (const key of ["k", undefined, "k"])
        producers.push(yield* start(pool.submit(Effect.void, key ? { key } : {})))
      // The first of the key has a place among its tasks now, and stands behind the one without a key for one in the backlog.
      yield* queued.cancel
      yield* work.open
      assert.isTrue(Exit.hasDies(yield* outer.exit))
      yield* Fiber.joinAll(producers)
    })
  )

  it.effect("what another may still let go is no circle: a parked task that fits, a pool that a deadline closes", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 2, onKeyFailure: "park" })
      yield* Effect.ignore(pool.run(Effect.fail("parks it"), { key: "k" }))
      const work = yield* gate
      const waits = yield* pool.submit(Effect.andThen(work.pass, Effect.as(pool.submit(Effect.void), "submitted")))
      yield* pool.submit(Effect.void, { weight: 2 })
      yield* pool.submit(Effect.void, { key: "k", priority: 1 })
      yield* work.open
      yield* settle
      yield* pool.resumeKey("k")
      assert.strictEqual(yield* waits.await, "submitted")

      const [one, two] = [
        yield* WorkerPool.make({ name: "one", concurrency: 1 }),
        yield* WorkerPool.make({ name: "two", concurrency: 1 })
      ]
      const self: { handle?: WorkerPool.TaskHandle<unknown, unknown> } = {}
      const more = yield* gate
      self.handle = yield* one.submit(Effect.andThen(more.pass, two.drain))
      yield* two.submit(Effect.suspend(() => self.handle?.await ?? Effect.void))
      yield* start(two.shutdown({ deadline: 20 }))
      yield* more.open
      yield* settle
      yield* TestClock.adjust(20)
      assert.isTrue(Exit.isSuccess(yield* self.handle.exit))
    })
  )

  it.effect("one slot more for a heavy task is as many as it weighs", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onDeadlock: "lend" })
      yield* pool.run(pool.run(Effect.void, { weight: 100_000_000 }))
      assert.deepInclude(yield* balanced(pool), { succeeded: 2 })
    })
  )

  it.effect("a wait for the end of a task that is cancelled is a wait like any other", () =>
    Effect.gen(function* () {
      const [one, two] = [
        yield* WorkerPool.make({ name: "one", concurrency: 1 }),
        yield* WorkerPool.make({ name: "two", concurrency: 1 })
      ]
      const outer = yield* two.submit(one.run(Effect.uninterruptible(two.awaitIdle), { timeout: 30 }))
      yield* outer.cancel
      yield* two.awaitIdle
    })
  )

  it.effect("onFailure of a task that never ran cannot wait for its pool to be idle", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 0, onFull: "dropNewest" })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const heard: Array<unknown> = []
      const onFailure = () =>
        Effect.map(Effect.exit(pool.awaitIdle), (exit) => heard.push(Exit.isFailure(exit) && Cause.squash(exit.cause)))
      yield* pool.fork(Effect.void, { onFailure })
      yield* work.open
      yield* pool.awaitIdle
      assert.instanceOf(heard[0], WorkerPool.PoolDeadlock)
    })
  )

  it.effect("nor what waits for it, in whatever pool that is", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 0, onFull: "dropNewest" })
      const other = yield* WorkerPool.make({ name: "other", concurrency: 1 })
      const work = yield* gate
      yield* pool.submit(work.pass)
      const heard: Array<unknown> = []
      const onFailure = () =>
        Effect.map(Effect.exit(other.run(pool.awaitIdle)), (exit) =>
          heard.push(Exit.isFailure(exit) && Cause.squash(exit.cause))
        )
      yield* pool.fork(Effect.void, { name: "dropped", onFailure })
      yield* work.open
      yield* pool.awaitIdle
      yield* other.awaitIdle
      assert.instanceOf(heard[0], WorkerPool.PoolDeadlock)
      assert.include(heard[0].message, 'onFailure of task "dropped" of pool "p" waits for task')
    })
  )

  it.effect("a timeout that never comes does not keep a circle from being found", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const handle = yield* pool.submit(pool.run(Effect.void), { timeout: "Infinity" })
      assert.isTrue(Exit.hasDies(yield* handle.exit))
    })
  )

  it.effect("the defect of a function that has closed its pool is reported", () =>
    Effect.gen(function* () {
      const [, lines] = yield* logged(
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
          const context = yield* Effect.context<never>()
          yield* pool.fork(
            Effect.sync(() => {
              Effect.runForkWith(context)(pool.shutdown({ deadline: 0 }))
              throw new Error("the bug")
            })
          )
          assert.deepInclude(yield* balanced(pool), { running: 0, defected: 1 })
        })
      )
      assert.isTrue(lines.some((line) => line.includes("the bug")))
    })
  )
})

describe("many at once", () => {
  it.effect("submitAll under reject takes all or none, whatever key, weight or rate they share", () =>
    Effect.gen(function* () {
      let ran = 0
      const four = Array.from({ length: 4 }, () => Effect.sync(() => ran++))
      const make = WorkerPool.make({ name: "p", concurrency: 4, capacity: 1, onFull: "reject" })
      for (const options of [{ key: "k" }, { weight: 4 }]) {
        const pool = yield* make
        assert.strictEqual((yield* Effect.flip(pool.submitAll(four, options)))._tag, "PoolFull")
      }
      const rated = yield* WorkerPool.make({
        name: "p",
        concurrency: 4,
        capacity: 1,
        onFull: "reject",
        rateLimit: { limit: 1, interval: "1 hour" }
      })
      assert.strictEqual((yield* Effect.flip(rated.submitAll(four)))._tag, "PoolFull")
      assert.strictEqual(ran, 0)
    })
  )

  it.effect("a submitAll that is interrupted starts none of those that it cancels", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 3 })
      const started: Array<number> = []
      const batch = yield* Effect.forkChild(
        pool.submitAll(
          Array.from({ length: 6 }, (_, n) =>
            Effect.andThen(
              Effect.sync(() => started.push(n)),
              Effect.never
            )
          )
        ),
        { startImmediately: true }
      )
      yield* Fiber.interrupt(batch)
      assert.deepStrictEqual(started, [0])
      assert.deepInclude(yield* balanced(pool), { interrupted: 4, running: 0, queued: 0, blocked: 0 })
    })
  )

  it.effect("map takes the items as it goes, and lets go of the rest when it fails", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
      let taken = 0
      let closed = false
      function* endless() {
        try {
          while (true) yield taken++
        } finally {
          closed = true
        }
      }
      const failing = pool.map(endless(), (n) => (n === 5 ? Effect.fail("five") : Effect.yieldNow))
      assert.strictEqual(yield* Effect.flip(failing), "five")
      assert.isBelow(taken, 20)
      assert.isTrue(closed)
    })
  )

  it.effect("map reports what fails while it is being cancelled, and says what its items threw", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 3 })
      const work = (n: number) =>
        n === 2
          ? Effect.andThen(Effect.yieldNow, Effect.fail("two"))
          : Effect.onInterrupt(Effect.never, () => Effect.die(n))
      const [failure, lines] = yield* logged(Effect.flip(pool.map([0, 1, 2, 3, 4], work)))
      assert.strictEqual(failure, "two")
      assert.deepInclude(yield* balanced(pool), { failed: 1, defected: 2, interrupted: 2 })
      assert.lengthOf(lines, 2)

      const broken = function* () {
        yield 1
        throw new Error("broken")
      }
      const exit = yield* Effect.exit(pool.map(broken(), () => Effect.never))
      assert.isTrue(Exit.isFailure(exit) && String(Cause.squash(exit.cause)) === "Error: broken")
      assert.deepInclude(yield* balanced(pool), { running: 0, interrupted: 3 })
    })
  )

  it.effect("map lets others have a turn, and a pool that closes ends it", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 1 })
      const endless = function* () {
        while (true) yield 1
      }
      const mapping = yield* Effect.forkChild(pool.map(endless(), () => Effect.void))
      const waiting = yield* Effect.forkChild(pool.map([1, 2, 3, 4, 5, 6], () => Effect.never))
      yield* Effect.yieldNow
      yield* pool.shutdown({ deadline: 0 })
      for (const fiber of [mapping, waiting]) {
        assert.instanceOf(yield* Effect.flip(Fiber.join(fiber)), WorkerPool.PoolClosed)
      }
    })
  )

  it.effect("a blocked producer that leaves passes its claim on", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 2, capacityPerKey: 1 })
      const work = yield* gate
      yield* pool.submit(work.pass, { key: "a" })
      yield* pool.submit(Effect.void, { key: "a" })
      const blocked = yield* Effect.forEach([2, 3], () =>
        Effect.forkChild(pool.submit(Effect.void, { key: "a" }), { startImmediately: true })
      )
      yield* Fiber.interrupt(blocked[0] ?? assert.fail("two are blocked"))
      yield* work.open
      yield* Fiber.join(blocked[1] ?? assert.fail("two are blocked"))
      yield* pool.awaitIdle
      assert.deepInclude(yield* balanced(pool), { succeeded: 3, blocked: 0 })
    })
  )

  it.effect("a task that submits itself again does not starve a producer that waits", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, capacity: 1 })
      const work = yield* gate
      let rounds = 0
      const again: Effect.Effect<void, WorkerPool.PoolClosed> = Effect.suspend(() =>
        ++rounds > 100 ? Effect.void : Effect.andThen(Effect.asVoid(pool.submit(again)), Effect.yieldNow)
      )
      yield* pool.submit(work.pass)
      yield* pool.submit(Effect.ignore(again))
      const producer = yield* Effect.forkChild(pool.submit(Effect.void), { startImmediately: true })
      yield* work.open
      yield* Fiber.join(producer)
      assert.isBelow(rounds, 5)
    })
  )

  it.effect("wrong types from callers without types are defects of the submission", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      for (const wrong of [{ name: 5 }, { key: 7 }, { onFailure: "log" }]) {
        // What a caller without types can bring.
        const options = wrong as unknown as { readonly name: string }
        const exit = yield* Effect.exit(pool.submit(Effect.void, options))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof WorkerPool.InvalidOption)
      }
      assert.deepInclude(yield* balanced(pool), { accepted: 0 })
    })
  )

  it.effect("code that is generic over the policy can catch PoolClosed", () =>
    Effect.gen(function* () {
      const orElse = <P extends WorkerPool.OnFull>(pool: WorkerPool.WorkerPool<P>) =>
        pool.run(Effect.succeed("ran")).pipe(Effect.catchTag("PoolClosed", () => Effect.succeed("closed")))
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, onFull: "reject" })
      assert.strictEqual(yield* orElse(pool), "ran")
      yield* pool.drain
      const [result] = yield* logged(orElse(pool))
      assert.strictEqual(result, "closed")
    })
  )
})
