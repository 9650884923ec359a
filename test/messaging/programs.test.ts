/**
 * Random programs over consumers that come, go, pause, fail, hang and lose their leases, while their own handlers publish,
 * close them and replay their dead letters. Whatever they do: what was confirmed is handled, dropped by decision or a dead
 * letter in the end, a key keeps its order, the books balance at every look, and every close ends with a true report.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, type Fiber, Layer, Logger, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { Broker, type Consumer, DeadLetters } from "millrace"
import { Memory } from "millrace/memory"
import { Sqlite } from "millrace/sqlite"
import { type Options, options, plain, type Step, someFaults, step, tick } from "./programs/steps.ts"
import { type Able, topicOf, topics, World } from "./programs/World.ts"

/**
 * The same programs each time, or, to look for more, `MILLRACE_PROGRAMS=10000 npm test -- test/messaging/programs.test.ts`:
 * that many others, and a failure names the seed.
 */
const manyPrograms = process.env.MILLRACE_PROGRAMS
const time = manyPrograms === undefined ? 60_000 : 24 * 3_600_000

const play = (
  broker: Layer.Layer<Able, Broker.BrokerError>,
  world: World,
  members: ReadonlyArray<Options>,
  programs: ReadonlyArray<ReadonlyArray<Step>>
) => {
  const logger = Logger.make(({ logLevel, message }) => {
    const line = [message].flat().map(String).join(" ")
    const isExpected = /its handler died|has stopped: /.test(line)
    world.ok(isExpected || !(logLevel === "Error" || logLevel === "Fatal" || line.includes("bug of the driver")), line)
  })
  /** Lets time pass until it is so; it must be within five minutes. */
  const until = <E, R>(what: string, isSo: Effect.Effect<boolean, E, R>) =>
    Effect.gen(function* () {
      for (let n = 0; n < 3000; n++) {
        yield* world.look
        if (yield* isSo) return
        // All that can go on does so before time does.
        yield* Effect.repeat(Effect.yieldNow, { times: 10 })
        yield* TestClock.adjust(tick)
      }
      assert.fail(`not so after five minutes: ${what}`)
    })
  const untilEnded = <R>(what: string, all: ReadonlyArray<Effect.Effect<unknown, unknown, R>>) =>
    Effect.gen(function* () {
      const fibers: ReadonlyArray<Fiber.Fiber<unknown, unknown>> = yield* Effect.forEach(all, (one) =>
        Effect.forkDetach(Effect.exit(one))
      )
      yield* until(
        what,
        Effect.sync(() => fibers.every((fiber) => fiber.pollUnsafe() !== undefined))
      )
    })

  /** Somebody comes now and then and puts things in order. */
  const putInOrder = Effect.gen(function* () {
    yield* world.faulty.disable
    for (const index of topics.keys()) {
      const open = world.members.filter(({ consumer, topic }) => topic === index && isOpen(consumer))
      for (const { consumer } of open) yield* consumer.resume
      if (open.length === 0) yield* Effect.forkDetach(Effect.ignore(world.join(index, plain)))
    }
  })
  const isOpen = (consumer: Consumer.RunningConsumer) =>
    !["draining", "stopped"].includes(Effect.runSync(consumer.health).status)

  const nothingIsLost = (index: number) =>
    Effect.gen(function* () {
      const letters = yield* Stream.runCollect(DeadLetters.list(topicOf(index).numbers))
      for (const { confirmedAt, died, done, n, purged, topic } of world.fates) {
        if (topic !== index || confirmedAt === Infinity) continue
        const isEnded = (life: number) => done.has(life) || died.has(life)
        assert.isTrue(isEnded(0), `${n} is gone`)
        for (const life of died) {
          const isThere = letters.some(({ id, replays }) => id === String(n) && replays === life)
          assert.isTrue(isThere || purged.has(life) || isEnded(life + 1), `letter ${n} of life ${life} is gone`)
        }
      }
    })

  return Effect.gen(function* () {
    const context = yield* Effect.context<Able>()
    const driver = yield* Broker.Broker
    yield* Effect.gen(function* () {
      yield* untilEnded(
        "members join",
        members.map((options, topic) => Effect.retry(world.join(topic, options), { times: 100 }))
      )
      yield* untilEnded(
        "programs end",
        programs.map((steps) => world.run(steps))
      )
      let looks = 0
      const isEmpty = Effect.gen(function* () {
        if (looks++ % 10 === 0) yield* putInOrder
        let left = 0
        for (const { numbers } of topics) {
          const { inFlight = 0, waiting = 0 } = yield* driver.backlog({ topic: numbers.name, group: "g" })
          left += inFlight + waiting
        }
        return left === 0
      })
      yield* until("nothing is left", isEmpty)
      yield* Effect.provide(Effect.forEach(topics.keys(), nothingIsLost), context)
      const close = () =>
        Effect.map(
          Effect.forEach(world.members, ({ scope }) => Effect.forkDetach(Scope.close(scope, Exit.void))),
          () => world.members.every(({ report }) => report !== undefined)
        )
      yield* until("members close", Effect.suspend(close))
    }).pipe(Effect.provide(world.faulty.layer(Layer.succeedContext(context))))
  }).pipe(Effect.provide([broker, Logger.layer([logger])]))
}

/** A broker in a file of its own. */
const inFile = Layer.unwrap(
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-programs-"))),
      (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
    ),
    (folder) => Sqlite.layer({ filename: join(folder, "messages.db"), synchronous: "NORMAL" })
  )
)

describe("programs of consumers and their handlers", () => {
  const check = (broker: Layer.Layer<Able, Broker.BrokerError>, withFaults: boolean, numRuns: number) =>
    fc.assert(
      fc.asyncProperty(
        fc.nat(),
        withFaults ? someFaults : fc.constant(undefined),
        fc.tuple(options, options),
        fc.array(fc.array(step, { maxLength: 12, size: "max" }), { minLength: 1, maxLength: 3 }),
        (seed, rates, members, programs) =>
          play(broker, new World(rates, seed), members, programs).pipe(
            Effect.provide(TestClock.layer()),
            // Of the real clock: a step that never ends.
            Effect.timeout("20 seconds"),
            Effect.runPromise
          )
      ),
      manyPrograms === undefined ? { numRuns, seed: 1 } : { numRuns: Number(manyPrograms) }
    )

  it("lose nothing in memory", () => check(Memory.layer(), false, 40), time)
  it("lose nothing in memory, whatever goes wrong", () => check(Memory.layer(), true, 60), time)
  it("lose nothing in a file, whatever goes wrong", () => check(inFile, true, 15), time)
})
