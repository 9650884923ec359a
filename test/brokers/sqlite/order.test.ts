/** Order by key, across subscriptions of different processes: whatever is retried, released or lost on the way. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { Delivery, Settlement, Subscription } from "../../../src/messaging/Driver.ts"
import type { Opened } from "./support.ts"
import { acknowledge, consume, drain, message, open, subscribe, take, textOf } from "./support.ts"

const keyed = (text: string, key: string) => message("t", text, { envelope: { key } })

const texts = (deliveries: ReadonlyArray<Delivery>) => deliveries.map(textOf)

/** Two brokers on one file are to each other what two processes are. */
const two = Effect.gen(function* () {
  const here = yield* open()
  const there = yield* open({ filename: here.filename })
  return [here, there] as const
})

/** The numbers of rows by state, as `{ ready, owned, delayed, parked }`. */
const states = ({ sql }: Opened) =>
  Effect.map(
    sql<{ state: number; count: number }>`SELECT state, count(*) AS count FROM millrace_message GROUP BY state`,
    (rows) => {
      const of = (state: number) => rows.find((row) => row.state === state)?.count ?? 0
      return { ready: of(0), owned: of(1), delayed: of(2), parked: of(3) }
    }
  )

describe("order by key", () => {
  it.live("an unsettled message holds back its key elsewhere, and only its key", () =>
    Effect.gen(function* () {
      const [here, there] = yield* two
      const a = yield* subscribe(here.driver, { order: "key" })
      const b = yield* subscribe(there.driver, { order: "key" })
      yield* here.driver.publish([keyed("k1", "k"), keyed("k2", "k"), keyed("l1", "l"), keyed("k3", "k")])
      const first = yield* take(a, 1)
      assert.deepStrictEqual(texts(first), ["k1"])
      assert.deepStrictEqual(texts(yield* take(b)), ["l1"])
      // What was met is set aside, so that it is not met again.
      assert.deepStrictEqual(yield* states(here), { ready: 0, owned: 2, delayed: 0, parked: 2 })
      yield* acknowledge(a, first)
      assert.deepStrictEqual(texts(yield* take(b)), ["k2", "k3"])
    })
  )

  it.live("a slow key takes no more than its share, and goes on in order", () =>
    Effect.gen(function* () {
      const here = yield* open()
      const a = yield* subscribe(here.driver, { order: "key", credit: 6, perKey: 2 })
      yield* here.driver.publish([..."123456"].map((n) => keyed(`slow${n}`, "slow")))
      yield* here.driver.publish([..."123"].map((n) => keyed(`quick${n}`, "quick")))
      const first = yield* take(a)
      assert.deepStrictEqual(texts(first), ["slow1", "slow2", "quick1", "quick2"])
      yield* acknowledge(a, first.slice(2))
      const second = yield* take(a)
      assert.deepStrictEqual(texts(second), ["quick3"])
      yield* acknowledge(a, second)
      yield* here.driver.publish([keyed("slow7", "slow")])
      assert.deepStrictEqual(yield* drain(a), [])
      yield* acknowledge(a, first)
      const third = yield* take(a)
      assert.deepStrictEqual(texts(third), ["slow3", "slow4"])
      yield* acknowledge(a, third)
      const rest: Array<string> = []
      while (rest.length < 3) {
        const some = yield* take(a)
        rest.push(...texts(some))
        yield* acknowledge(a, some)
      }
      assert.deepStrictEqual(rest, ["slow5", "slow6", "slow7"])
    })
  )

  it.live("one subscription may hold many of a key, and another none of it", () =>
    Effect.gen(function* () {
      const [here, there] = yield* two
      const a = yield* subscribe(here.driver, { order: "key" })
      const b = yield* subscribe(there.driver, { order: "key" })
      yield* here.driver.publish([keyed("1", "k"), keyed("2", "k"), keyed("3", "k")])
      const held = yield* take(a, 2)
      assert.deepStrictEqual(yield* drain(b), [])
      yield* acknowledge(a, held.slice(1))
      assert.deepStrictEqual(yield* drain(b), [])
      yield* acknowledge(a, held)
      assert.deepStrictEqual(texts(yield* take(b)), ["3"])
    })
  )

  it.live("a retry blocks its key until it has run, everywhere", () =>
    Effect.gen(function* () {
      const [here, there] = yield* two
      const a = yield* subscribe(here.driver, { order: "key" })
      const b = yield* subscribe(there.driver, { order: "key" })
      yield* here.driver.publish([keyed("1", "k"), keyed("2", "k")])
      const [one] = yield* take(a, 1)
      if (one === undefined) return assert.fail()
      yield* a.settle([{ _tag: "Retry", delay: 300, delivery: one, envelope: one.message.envelope }])
      assert.deepStrictEqual(yield* drain(a), [])
      assert.deepStrictEqual(yield* drain(b), [])
      const again = yield* take(b, 1)
      assert.deepStrictEqual(texts(again), ["1"])
      assert.deepStrictEqual(yield* drain(a), [])
      yield* acknowledge(b, again)
      assert.deepStrictEqual(texts(yield* take(a)), ["2"])
    })
  )

  it.live("what is given back goes to who still holds its key", () =>
    Effect.gen(function* () {
      const [here, there] = yield* two
      const a = yield* subscribe(here.driver, { order: "key" })
      const b = yield* subscribe(there.driver, { order: "key" })
      yield* here.driver.publish([keyed("1", "k"), keyed("2", "k"), keyed("3", "k")])
      const [one, second] = yield* take(a, 2)
      if (one === undefined || second === undefined) return assert.fail()
      yield* a.settle([{ _tag: "Release", delivery: one }])
      assert.deepStrictEqual(yield* drain(b), [])
      const again = yield* take(a, 1)
      assert.deepStrictEqual(texts(again), ["1"])
      yield* acknowledge(a, [...again, second])
      assert.deepStrictEqual(texts(yield* take(b)), ["3"])
    })
  )

  it.live("a delayed message that others wait behind does not end in a circle", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const a = yield* subscribe(driver, { order: "key" })
      const b = yield* subscribe(driver, { order: "key" })
      yield* driver.publish([keyed("1", "k")])
      const one = yield* take(a)
      yield* driver.publish([keyed("2", "k"), message("t", "3", { delay: 20, envelope: { key: "k" } })])
      // It is set aside behind the first, and the third becomes due behind it.
      assert.deepStrictEqual(yield* drain(b), [])
      yield* acknowledge(a, one)
      assert.deepStrictEqual(texts(yield* consume(b, 2)), ["2", "3"])
    })
  )

  it.live("a buffered message does not overtake an earlier one that is given back", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const a = yield* subscribe(driver, { order: "key" })
      yield* driver.publish([keyed("1", "k")])
      const one = [...(yield* take(a))]
      for (const settlement of ["Release", "Retry"] as const) {
        const waiting = yield* Effect.forkChild(take(a), { startImmediately: true })
        // Answered in the transaction that hands "2" to the take, which is interrupted before it hears of it.
        yield* Effect.andThen(driver.publish([keyed(settlement, "k")]), Fiber.interrupt(waiting))
        assert.strictEqual((yield* driver.backlog({ topic: "t", group: "g" })).inFlight, 2)
        const [delivery] = one
        if (delivery === undefined) return assert.fail()
        yield* a.settle([{ _tag: settlement, delivery, delay: 0, envelope: delivery.message.envelope }])
        const both = yield* take(a)
        assert.deepStrictEqual(texts(both), ["1", settlement])
        yield* acknowledge(a, both.slice(1))
        one.splice(0, 1, ...both.slice(0, 1))
      }
    })
  )

  it.live("a subscription that closes lets others go on with its keys", () =>
    Effect.gen(function* () {
      const [here, there] = yield* two
      const b = yield* subscribe(there.driver, { order: "key" })
      yield* here.driver.publish([keyed("1", "k"), keyed("2", "k"), keyed("3", "k")])
      yield* Effect.scoped(
        Effect.gen(function* () {
          const a = yield* subscribe(here.driver, { order: "key" })
          assert.deepStrictEqual(texts(yield* take(a, 2)), ["1", "2"])
          assert.deepStrictEqual(yield* drain(b), [])
        })
      )
      assert.deepStrictEqual(texts(yield* take(b, 2)), ["1", "2"])
    })
  )

  it.live(
    "a hot key of ten thousand messages is worked off by two, in order",
    () =>
      Effect.gen(function* () {
        const [here, there] = yield* two
        const total = 10_000
        const a = yield* subscribe(here.driver, { order: "key" })
        const b = yield* subscribe(there.driver, { order: "key" })
        yield* here.driver.publish(Array.from({ length: total }, (_, i) => keyed(String(i), "hot")))
        const seen: Array<string> = []
        const work = (subscription: Subscription) =>
          Effect.gen(function* () {
            while (seen.length < total) {
              const taken = yield* drain(subscription)
              seen.push(...texts(taken))
              yield* acknowledge(subscription, taken)
            }
          })
        yield* Effect.all([work(a), work(b)], { concurrency: 2 })
        assert.deepStrictEqual(
          seen,
          Array.from({ length: total }, (_, i) => String(i))
        )
      }),
    60_000
  )
})

/** A small generator of numbers that is the same for every run of a seed. */
const randomOf = (seed: number) => () => {
  seed = (seed * 1_664_525 + 1_013_904_223) >>> 0
  return seed / 2 ** 32
}

/** What the model knows of a message: who holds it now. */
interface Known {
  readonly key: string
  holder: Subscription | "waiting" | "done"
}

describe("order by key, under random retries and releases", () => {
  for (const seed of [1, 2, 3, 4, 5, 6]) {
    it.live(
      `seed ${seed}`,
      () =>
        Effect.gen(function* () {
          const random = randomOf(seed)
          const [here, there] = yield* two
          const keys = 3
          const total = 400
          const byKey = new Map<string, Array<Known>>()
          const known = new Map<string, Known>()
          let done = 0

          const taken = (subscription: Subscription, deliveries: ReadonlyArray<Delivery>) => {
            for (const delivery of deliveries) {
              const own = known.get(textOf(delivery))
              if (own === undefined) throw new Error("a message that nobody published")
              assert.strictEqual(own.holder, "waiting", `${textOf(delivery)} is held or done`)
              for (const other of byKey.get(own.key) ?? []) {
                if (other === own) continue
                const mine = other.holder === subscription
                // Nobody else holds the key, and nothing earlier is left behind.
                if (!mine && typeof other.holder !== "string") assert.fail(`key ${own.key} is held by two`)
              }
              for (const earlier of byKey.get(own.key) ?? []) {
                if (earlier === own) break
                assert.isTrue(
                  earlier.holder === "done" || earlier.holder === subscription,
                  `${textOf(delivery)} came before an earlier one of its key`
                )
              }
              own.holder = subscription
            }
          }

          const settle = (subscription: Subscription, held: Array<Delivery>) => {
            // In the order of their keys, as a consumer does: nothing is done before an earlier one of its key.
            const settlements: Array<Settlement> = []
            const stopped = new Set<string>()
            for (const delivery of [...held]) {
              const own = known.get(textOf(delivery))
              if (own === undefined || stopped.has(own.key)) continue
              const dice = random()
              if (dice < 0.3) {
                stopped.add(own.key)
                continue
              }
              held.splice(held.indexOf(delivery), 1)
              if (dice < 0.7) {
                own.holder = "done"
                done++
                settlements.push({ _tag: "Acknowledge", delivery })
                continue
              }
              stopped.add(own.key)
              own.holder = "waiting"
              settlements.push(
                dice < 0.85
                  ? { _tag: "Release", delivery }
                  : {
                      _tag: "Retry",
                      delivery,
                      delay: random() < 0.3 ? 0 : random() * 10,
                      envelope: delivery.message.envelope
                    }
              )
            }
            return Effect.map(subscription.settle(settlements), (answers) => {
              assert.isTrue(answers.every((answer) => answer === "Settled"))
            })
          }

          const consumer = ({ driver }: Opened) =>
            Effect.scoped(
              Effect.gen(function* () {
                while (done < total) {
                  // Some subscriptions end with what they hold, and begin anew.
                  const subscription = yield* subscribe(driver, { order: "key", credit: 20 })
                  const held: Array<Delivery> = []
                  for (let round = 0; round < 30 && done < total; round++) {
                    const max = 1 + Math.floor(random() * 10)
                    const got = held.length === 0 ? yield* drain(subscription, max) : yield* quick(subscription, max)
                    taken(subscription, got)
                    held.push(...got)
                    held.sort((a, b) => Number(textOf(a)) - Number(textOf(b)))
                    yield* settle(subscription, held)
                  }
                  // What is still held goes back when the scope ends, which the model hears of first.
                  const back = held.splice(0)
                  for (const delivery of back) {
                    const own = known.get(textOf(delivery))
                    if (own !== undefined) own.holder = "waiting"
                  }
                  yield* subscription.settle(back.map((delivery) => ({ _tag: "Release", delivery })))
                  yield* subscription.setCredit(0)
                }
              })
            )

          const quick = (subscription: Subscription, max: number) =>
            Effect.map(Effect.timeoutOption(take(subscription, max), "2 millis"), (taken) =>
              taken._tag === "Some" ? taken.value : []
            )

          yield* subscribe(here.driver, { order: "key", credit: 0 })
          const publisher = Effect.gen(function* () {
            for (let i = 0; i < total; i++) {
              const own: Known = { key: `k${Math.floor(random() * keys)}`, holder: "waiting" }
              known.set(String(i), own)
              byKey.set(own.key, [...(byKey.get(own.key) ?? []), own])
              yield* here.driver.publish([keyed(String(i), own.key)])
            }
          })
          yield* Effect.all([publisher, consumer(here), consumer(there), consumer(there)], { concurrency: "unbounded" })
          assert.strictEqual(done, total)
          assert.deepStrictEqual(yield* here.driver.backlog({ topic: "t", group: "g" }), {
            waiting: 0,
            delayed: 0,
            inFlight: 0,
            oldest: undefined
          })
          assert.deepStrictEqual(yield* states(here), { ready: 0, owned: 0, delayed: 0, parked: 0 })
        }),
      60_000
    )
  }
})
