/**
 * The books of a consumer balance at every instant, whatever happens: random commands, lost deliveries and a broker that fails,
 * hangs and answers late. What was confirmed is handled in the end, or a dead letter.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Logger, Schedule, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { Broker, Consumer, DeadLetters } from "millrace"
import { Memory } from "millrace/memory"
import { FaultyBroker } from "millrace/testing"
import { Busy, Numbers, Refused } from "./support.ts"

const Command = fc.oneof(
  fc.record({ do: fc.constant("publish" as const), count: fc.integer({ min: 1, max: 6 }) }),
  fc.record({ do: fc.constant("wait" as const), millis: fc.integer({ min: 0, max: 4_000 }) }),
  fc.record({ do: fc.constantFrom("pause", "resume", "join", "drain", "close", "heal", "harm") })
)
type Command = typeof Command extends fc.Arbitrary<infer A> ? A : never

const faults: FaultyBroker.RatesByOperation = {
  publish: { failBefore: 0.1, failAfter: 0.1 },
  take: { failBefore: 0.1, failAfter: 0.1, slow: 0.2 },
  settle: { failBefore: 0.1, failAfter: 0.1, hangAfter: 0.05, partial: 0.1, slow: 0.2 },
  renew: { failBefore: 0.1, hangBefore: 0.1, lose: 0.1 },
  setCredit: { failBefore: 0.2, hangBefore: 0.1, slow: 0.2 },
  subscribe: { failBefore: 0.1 },
  backlog: { failBefore: 0.1, hangBefore: 0.1 }
}

interface Member {
  readonly consumer: Consumer.RunningConsumer
  readonly scope: Scope.Closeable
}

/** How the handler of a message ends: by its number. */
const handler = (handled: Set<number>) => (n: number, attempt: number) =>
  Effect.gen(function* () {
    yield* Effect.sleep((n % 5) * 300)
    if (n % 7 === 3) return yield* new Refused()
    if (n % 5 === 4 && attempt < 3) return yield* new Busy({ after: 1 })
    if (n % 11 === 5 && attempt === 1) return yield* Effect.die(new Error("a bug"))
    if (n % 13 === 6 && attempt === 1) yield* Effect.uninterruptible(Effect.sleep("6 seconds"))
    handled.add(n)
  })

const play = (seed: number, mode: "plain" | "key" | "batch", commands: ReadonlyArray<Command>) =>
  Effect.gen(function* () {
    const faulty = FaultyBroker.make({ seed, rates: faults, slow: "300 millis", hang: "5 seconds" })
    const layer = faulty.layer(Memory.layer({ store: Memory.makeStore() }))
    const handled = new Set<number>()
    const confirmed: Array<number> = []
    const all: Array<Member> = []
    const handle = handler(handled)
    const options = {
      group: "g",
      concurrency: 3,
      prefetch: 8,
      lease: "3 seconds",
      stallAfter: "4 seconds",
      shutdownDeadline: "2 seconds",
      shutdownGrace: "1 second",
      onDefect: Consumer.retry(Schedule.spaced("1 second")),
      onError: { Refused: Consumer.deadLetter, Busy: Consumer.retry(Schedule.spaced("500 millis")) }
    } as const

    /** The books of all members, and what they say in the end of the one that has closed. */
    const check = Effect.gen(function* () {
      for (const { consumer } of all) {
        const books = yield* consumer.accounting
        assert.isTrue(Consumer.isBalanced(books), JSON.stringify(books))
        assert.isTrue(
          Object.values(books).every((count) => count >= 0),
          JSON.stringify(books)
        )
        assert.isAtMost(books.queued + books.running + books.settling, 8)
        if ((yield* consumer.health).status !== "stopped") continue
        assert.deepInclude(books, { queued: 0, running: 0, settling: 0, bytes: 0 })
      }
    })

    /** Lets time go on in small steps, and looks at each. */
    const pass = (millis: number) =>
      Effect.repeat(Effect.andThen(TestClock.adjust(100), check), { times: Math.ceil(millis / 100) })

    yield* Effect.gen(function* () {
      const join = Effect.gen(function* () {
        const scope = yield* Scope.make()
        const make =
          mode === "batch"
            ? Consumer.makeBatch(
                Numbers,
                (batch) =>
                  Effect.forEach(batch, ({ message, value }) => Effect.result(handle(value.n, message.attempt))),
                { ...options, size: 3, linger: "200 millis" }
              )
            : Consumer.make(Numbers, ({ n }, { attempt }) => handle(n, attempt), {
                ...options,
                order: mode === "key" ? "key" : undefined
              })
        const exit = yield* Effect.exit(Scope.provide(make, scope))
        if (Exit.isSuccess(exit)) all.push({ consumer: exit.value, scope })
      })
      const driver = yield* Broker.Broker
      yield* Effect.retry(driver.declare({ topic: "numbers", groups: ["g"] }), { times: 20 })
      yield* join
      let next = 0
      for (const command of commands) {
        const member = all.at(-1)
        switch (command.do) {
          case "publish":
            for (let i = 0; i < command.count; i++) {
              const n = next++
              const key = `key ${n % 3}`
              const exit = yield* Effect.exit(Numbers.publish({ n, key }, { key }))
              if (Exit.isSuccess(exit)) confirmed.push(n)
            }
            break
          case "wait":
            yield* pass(command.millis)
            break
          case "pause":
            if (member !== undefined) yield* member.consumer.pause
            break
          case "resume":
            if (member !== undefined) yield* member.consumer.resume
            break
          case "join":
            if (all.length < 5) yield* join
            break
          case "drain":
            if (member !== undefined) yield* Effect.forkDetach(member.consumer.drain({ deadline: "500 millis" }))
            break
          case "close":
            if (member !== undefined) yield* Effect.forkDetach(Scope.close(member.scope, Exit.void))
            break
          case "heal":
            yield* faulty.disable
            break
          case "harm":
            yield* faulty.enable
            break
        }
        yield* check
      }
      yield* faulty.disable
      for (const { consumer } of all) yield* consumer.resume
      yield* Effect.repeat(join, { until: () => all.length >= 6 })
      yield* pass(30_000)
      const letters = yield* Stream.runCollect(DeadLetters.list(Numbers))
      const dead = letters.flatMap(({ value }) => (value._tag === "Success" ? [value.success.n] : []))
      for (const n of confirmed) assert.isTrue(handled.has(n) || dead.includes(n), `${n} is gone`)
      for (const { scope } of all) yield* Effect.forkDetach(Scope.close(scope, Exit.void))
      yield* pass(20_000)
      for (const { consumer } of all) assert.strictEqual((yield* consumer.health).status, "stopped")
    }).pipe(Effect.provide(layer))
  }).pipe(Effect.provide([TestClock.layer(), Logger.layer([])]), Effect.scoped)

describe("the books of a consumer", () => {
  for (const mode of ["plain", "key", "batch"] as const) {
    it.effect(
      `balance at every instant, and nothing is lost: ${mode}`,
      () =>
        Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(
              fc.integer({ min: 0, max: 1_000_000 }),
              fc.array(Command, { minLength: 3, maxLength: 25 }),
              (seed, commands) => Effect.runPromise(play(seed, mode, commands))
            ),
            { numRuns: 6 }
          )
        ),
      { timeout: 120_000 }
    )
  }
})
