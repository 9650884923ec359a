/**
 * Tasks that are a success already or one synchronous function run without a fiber of their own where they start inside
 * the submission. Nothing but `Fiber.getCurrent()` may tell: each is compared with a twin that has a fiber.
 */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Latch, Metric, References, Scheduler } from "effect"
import { Registry, WorkerPool } from "millrace"
import { balanced, gate, logged } from "./support.ts"

/** The same work, once as one function and once in two steps. */
const shapes = {
  "in place": <A>(f: () => A): Effect.Effect<A> => Effect.sync(f),
  "on a fiber": <A>(f: () => A): Effect.Effect<A> => Effect.suspend(() => Effect.sync(f))
}

class Name extends Context.Service<Name, string>()("test/inPlace/Name") {}

/** Whether the function runs on the fiber that submitted it, which is how a test knows which way it took. */
const ranInPlace = (pool: WorkerPool.WorkerPool) =>
  Effect.withFiber((submitter) => pool.run(Effect.sync(() => Fiber.getCurrent() === submitter)))

describe("a task that needs no fiber", () => {
  it.effect("runs in place, and one of several steps does not", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      assert.isTrue(yield* ranInPlace(pool))
      const twin = Effect.withFiber((submitter) =>
        pool.run(shapes["on a fiber"](() => Fiber.getCurrent() === submitter))
      )
      assert.isFalse(yield* twin)
      assert.strictEqual(yield* pool.run(Effect.succeed(7)), 7)
      assert.deepInclude(yield* balanced(pool), { accepted: 3, succeeded: 3 })
    })
  )

  it.effect("is one operation of the fiber that submits it, without a turn for the handle", () => {
    let turns = 0
    const scheduler = new Scheduler.MixedScheduler()
    const counting: Scheduler.Scheduler = Object.assign(Object.create(scheduler), {
      shouldYield: (fiber: Fiber.Fiber<unknown, unknown>) => {
        turns++
        return scheduler.shouldYield(fiber)
      }
    })
    const turnsOf = (effect: Effect.Effect<unknown, unknown>) =>
      Effect.gen(function* () {
        const before = turns
        yield* effect
        return turns - before
      })
    return Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      const work = Effect.sync(() => 1)
      const plain = yield* turnsOf(work)
      assert.isAbove(plain, 0)
      for (const effect of [pool.submit(work), pool.run(work), pool.fork(work)]) {
        assert.strictEqual(yield* turnsOf(effect), plain)
      }
    }).pipe(Effect.provideService(Scheduler.Scheduler, counting))
  })

  for (const [name, shape] of Object.entries(shapes)) {
    describe(name, () => {
      it.effect("it is running while its function runs, and settled when submit returns", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
          const registry = yield* Registry.Registry
          const look = shape(() => ({
            books: Effect.runSync(balanced(pool)),
            states: [...registry.entries].flatMap((entry) => entry.tasks().map((task) => `${task.id} ${task.state}`))
          }))
          const handle = yield* pool.submit(look)
          const settled = yield* handle.poll
          const { books, states } = yield* handle.await
          assert.deepInclude(books, { accepted: 1, running: 1, succeeded: 0 })
          assert.deepStrictEqual(states, ["p#1 running"])
          assert.isTrue(settled._tag === "Some" && Exit.isSuccess(settled.value))
          assert.strictEqual(handle.id, "p#1")
          assert.strictEqual(handle.name, "p#1")
          yield* handle.cancel
          assert.strictEqual((yield* handle.await).books.running, 1)
          assert.deepInclude(yield* balanced(pool), { accepted: 1, running: 0, succeeded: 1 })
        }).pipe(Effect.provideService(Registry.Registry, Registry.makeUnsafe()))
      )

      it.effect("what its function throws is a defect of the task, with the frames of the submitter", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
          const problem = new Error("thrown")
          let ran = 0
          const broken = shape((): number => {
            ran++
            throw problem
          })
          const ordering = Effect.fn("ordering")(function* () {
            const handle = yield* pool.submit(broken)
            return [yield* handle.exit, yield* Effect.exit(pool.run(broken))]
          })
          const exits = yield* ordering()
          assert.strictEqual(exits.length, 2)
          assert.strictEqual(ran, 2)
          for (const exit of exits) {
            assert.isTrue(Exit.isFailure(exit))
            if (Exit.isSuccess(exit)) return
            assert.strictEqual(Cause.squash(exit.cause), problem)
            assert.isTrue(exit.cause.reasons.every(Cause.isDieReason))
            assert.include(Cause.pretty(exit.cause), "at ordering")
          }
          assert.deepInclude(yield* balanced(pool), { defected: 2, succeeded: 0 })
        })
      )

      it.effect("a defect that nobody reads is reported once", () =>
        Effect.gen(function* () {
          const broken = shape((): number => {
            throw new Error("thrown")
          })
          const [, lines] = yield* logged(
            Effect.scoped(
              Effect.gen(function* () {
                const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
                yield* pool.fork(broken)
                yield* pool.submit(broken)
                yield* Effect.exit(pool.run(broken))
              })
            )
          )
          assert.deepStrictEqual(
            lines.map((line) => /Task "(.*?)"/.exec(line)?.[1]),
            ["p#1", "p#2"]
          )
        })
      )

      it.effect("it sees the services, references and annotations of its submitter, started at once or queued", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
          const look = shape(() => {
            const context = Fiber.getCurrent()?.context ?? Context.empty()
            const name = Context.getOrUndefined(context as Context.Context<Name>, Name)
            return `${name} ${JSON.stringify(Context.get(context, References.CurrentLogAnnotations))}`
          })
          const as = (user: string) => (effect: ReturnType<typeof pool.submit<string, never, never>>) =>
            effect.pipe(Effect.provideService(Name, user), Effect.annotateLogs("user", user))
          const first = yield* pool.submit(look).pipe(as("ann"))
          const work = yield* gate
          yield* pool.submit(work.pass)
          const second = yield* pool.submit(look).pipe(as("bob"))
          yield* work.open
          assert.strictEqual(yield* first.await, 'ann {"user":"ann"}')
          assert.strictEqual(yield* second.await, 'bob {"user":"bob"}')
        })
      )

      it.effect("it waits for its turn: paused, behind others, without a slot, over the rate", () =>
        Effect.gen(function* () {
          const order: Array<string> = []
          const note = (name: string) => shape(() => order.push(name))
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
          yield* pool.pause
          yield* pool.submit(note("paused"))
          assert.deepStrictEqual(order, [])
          yield* pool.resume
          assert.deepStrictEqual(order, ["paused"])

          const work = yield* gate
          yield* pool.submit(work.pass)
          yield* pool.submit(note("first"))
          yield* pool.submit(note("second"))
          assert.deepInclude(yield* balanced(pool), { running: 1, queued: 2 })
          yield* work.open
          yield* pool.awaitIdle
          assert.deepStrictEqual(order, ["paused", "first", "second"])

          const slow = yield* WorkerPool.make({
            name: "slow",
            concurrency: 8,
            rateLimit: { limit: 1, interval: "1 hour" },
            shutdownDeadline: 0
          })
          yield* slow.submit(note("within the rate"))
          yield* slow.submit(note("over the rate"))
          assert.deepInclude(yield* balanced(slow), { succeeded: 1, queued: 1 })
          assert.strictEqual(order.at(-1), "within the rate")
        })
      )

      it.effect("it does not overtake a heavier producer that waits for slots", () =>
        Effect.gen(function* () {
          const order: Array<string> = []
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 2, capacity: 0 })
          const work = yield* gate
          yield* pool.submit(work.pass)
          const heavy = Effect.sync(() => order.push("heavy"))
          const blocked = yield* Effect.forkChild(pool.submit(heavy, { weight: 2 }), { startImmediately: true })
          const light = yield* Effect.forkChild(pool.submit(shape(() => order.push("light"))), {
            startImmediately: true
          })
          assert.deepInclude(yield* balanced(pool), { running: 1, blocked: 2 })
          yield* work.open
          yield* Fiber.join(blocked)
          yield* Fiber.join(light)
          yield* pool.awaitIdle
          assert.deepStrictEqual(order, ["heavy", "light"])
        })
      )

      it.effect("it does not overtake a heavier task that is queued for slots", () =>
        Effect.gen(function* () {
          const order: Array<string> = []
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 2 })
          const work = yield* gate
          yield* pool.submit(work.pass)
          yield* pool.submit(
            Effect.sync(() => order.push("heavy")),
            { weight: 2 }
          )
          yield* pool.submit(shape(() => order.push("light")))
          assert.deepInclude(yield* balanced(pool), { running: 1, queued: 2 })
          yield* work.open
          yield* pool.awaitIdle
          assert.deepStrictEqual(order, ["heavy", "light"])
        })
      )

      it.effect("a closed pool refuses it", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
          yield* pool.shutdown()
          let ran = false
          const exit = yield* Effect.exit(pool.submit(shape(() => (ran = true))))
          assert.isTrue(Exit.isFailure(exit))
          assert.isFalse(ran)
          assert.deepInclude(yield* balanced(pool), { accepted: 0, refused: 1 })
        })
      )

      it.effect("a function that closes its own pool is interrupted by that", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1, shutdownGrace: 0 })
          const handle = yield* pool.submit(
            shape(() => {
              Effect.runFork(pool.shutdown({ deadline: 0 }))
              return "went on"
            })
          )
          const exit = yield* handle.exit
          const report = yield* pool.shutdown()
          assert.isTrue(Exit.isFailure(exit))
          if (Exit.isSuccess(exit)) return
          const error = Cause.squash(exit.cause)
          assert.instanceOf(error, WorkerPool.PoolClosed)
          const { abandoned, interrupted } = yield* balanced(pool)
          assert.strictEqual(abandoned + interrupted, 1)
          assert.strictEqual(report.abandoned.length + report.interrupted.length, 1)
        })
      )

      it.effect("functions that submit functions do not fill the stack", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 100_000, capacity: 100_000 })
          const fork = Effect.runForkWith(yield* Effect.context<never>())
          let ran = 0
          const nest = (depth: number): Effect.Effect<void> =>
            shape(() => {
              ran++
              if (depth > 0) fork(pool.fork(nest(depth - 1)))
            })
          yield* pool.fork(nest(50_000))
          yield* pool.awaitIdle
          assert.strictEqual(ran, 50_001)
          assert.deepInclude(yield* balanced(pool), { accepted: 50_001, succeeded: 50_001 })
        })
      )

      it.effect("those that wait for an idle pool go on when it has ended", () =>
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
          const idle = Latch.makeUnsafe()
          yield* pool.submit(
            shape(() => {
              Effect.runFork(Effect.andThen(pool.awaitIdle, idle.open))
            })
          )
          yield* idle.await
        })
      )
    })
  }

  it.effect("what is no effect at all is a defect of the task, not of the submission", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      for (const nothing of [undefined, null, 7] as ReadonlyArray<unknown>) {
        const handle = yield* pool.submit(nothing as Effect.Effect<void>)
        assert.isTrue(Exit.isFailure(yield* handle.exit))
      }
      assert.deepInclude(yield* balanced(pool), { accepted: 3, defected: 3 })
    })
  )

  it.effect("has a fiber where fibers are counted", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      assert.isFalse(yield* Effect.provide(ranInPlace(pool), Metric.enableRuntimeMetricsLayer))
    })
  )

  it.effect("has a fiber where its submitter has a scheduler of its own", () =>
    Effect.gen(function* () {
      const pool = yield* WorkerPool.make({ name: "p", concurrency: 1 })
      assert.isFalse(Effect.runSync(ranInPlace(pool)))
    })
  )
})
