/**
 * Publishing, consuming, draining and replaying, interrupted at every point: every message has exactly one place or outcome,
 * and none is gone.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schedule, type Scope, Stream } from "effect"
import { Broker, Consumer, DeadLetters, type Driver } from "millrace"
import { Memory } from "millrace/memory"
import { everyInterruptionPoint } from "millrace/testing"
import { Busy, balanced, Numbers, Refused } from "./support.ts"

/** A broker of its own with the group declared, and what its handlers have handled. */
const setup = Effect.gen(function* () {
  const layer = Memory.layer({ store: Memory.makeStore() })
  const driver = yield* Effect.provide(
    Effect.map(Broker.Broker, (driver) => driver),
    layer
  )
  yield* driver.declare({ topic: "numbers", groups: ["g"] })
  const handled: Array<number> = []
  const confirmed: Array<number> = []
  return { layer, driver, handled, confirmed }
})
type State = Effect.Success<typeof setup>
type OnMemory = Broker.Broker<Memory.Abilities>

const publish = ({ confirmed }: State, n: number) =>
  Effect.map(Numbers.publish({ n, key: n % 2 === 0 ? "even" : "odd" }, { key: n % 2 === 0 ? "even" : "odd" }), () => {
    confirmed.push(n)
  })

const consumer = ({ handled }: State, order?: "key") =>
  Consumer.make(
    Numbers,
    ({ n }, { attempt, replays }) =>
      Effect.gen(function* () {
        yield* Effect.yieldNow
        if (n === 3 && replays === 0) return yield* new Refused()
        if (n === 2 && attempt === 1) return yield* new Busy({ after: 0 })
        handled.push(n)
      }),
    {
      group: "g",
      order,
      concurrency: 2,
      shutdownDeadline: 0,
      onError: { Refused: Consumer.deadLetter, Busy: Consumer.retry(Schedule.spaced(0)) }
    }
  )

/** Goes on in steps of the event loop until it is true; what is not true by then will not be. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.repeat(condition, {
    until: (isTrue) => isTrue,
    schedule: Schedule.max([Schedule.spaced(1), Schedule.recurs(2000)])
  })

/** What was confirmed is handled in the end, or a dead letter; nothing is held by anybody. */
const nothingLost = (state: State) =>
  Effect.gen(function* () {
    const last = yield* consumer(state)
    const letters = Stream.runCollect(DeadLetters.list(Numbers))
    yield* until(
      Effect.gen(function* () {
        const { inFlight, waiting } = yield* state.driver.backlog({ topic: "numbers", group: "g" })
        const { queued, running, settling } = yield* balanced(last)
        return waiting === 0 && inFlight === 0 && queued + running + settling === 0
      })
    )
    assert.deepInclude(yield* state.driver.backlog({ topic: "numbers", group: "g" }), { waiting: 0, inFlight: 0 })
    const dead = yield* letters
    for (const n of state.confirmed) {
      const isDead = n === 3 && dead.length > 0
      assert.isTrue(isDead || state.handled.includes(n), `${n} is neither handled nor a dead letter`)
    }
  })

const sweep = (operation: (state: State) => Effect.Effect<unknown, unknown, OnMemory | Scope.Scope>) =>
  everyInterruptionPoint(
    setup,
    (state) => Effect.provide(Effect.scoped(operation(state)), state.layer),
    (state) => Effect.provide(Effect.scoped(nothingLost(state)), state.layer)
  )

describe("interrupted at every point", () => {
  it.live("a consumer that starts leaves no subscription behind", () => {
    let open = 0
    const counted = Effect.map(setup, (state) => ({
      ...state,
      layer: Layer.effect(
        Broker.Broker,
        Effect.map(Broker.Broker, (driver) => ({
          ...driver,
          // The step between having it and telling of it is where it gets lost.
          subscribe: (options: Driver.SubscribeOptions) =>
            Effect.acquireRelease(
              Effect.sync(() => open++),
              () => Effect.sync(() => open--)
            ).pipe(Effect.andThen(driver.subscribe(options)), Effect.tap(Effect.yieldNow))
        }))
      ).pipe(Layer.provide(state.layer))
    }))
    return everyInterruptionPoint(
      counted,
      (state) =>
        Effect.provide(
          Effect.scoped(Consumer.make(Numbers, () => Effect.void, { group: "g", shutdownDeadline: 0 })),
          state.layer
        ),
      () =>
        Effect.sync(() => {
          assert.strictEqual(open, 0)
        })
    ).pipe(
      Effect.map((points) => {
        assert.isAbove(points, 2)
      })
    )
  })

  const operations: Record<string, (state: State) => Effect.Effect<unknown, unknown, OnMemory | Scope.Scope>> = {
    publish: (state) => publish(state, 1),
    publishAll: (state) =>
      Effect.map(Numbers.publishAll([{ n: 1 }, { n: 2 }]), (receipts) => {
        state.confirmed.push(...receipts.map((_, i) => i + 1))
      }),
    "publish, consume, close": (state) =>
      Effect.gen(function* () {
        yield* consumer(state)
        for (const n of [1, 2, 3, 4]) yield* publish(state, n)
        yield* Effect.yieldNow
        yield* Effect.yieldNow
      }),
    "consume by key, close": (state) =>
      Effect.gen(function* () {
        for (const n of [1, 2, 3, 4]) yield* publish(state, n)
        yield* consumer(state, "key")
        yield* Effect.repeat(Effect.yieldNow, { times: 10 })
      }),
    "drain while handlers run": (state) =>
      Effect.gen(function* () {
        for (const n of [1, 2, 4]) yield* publish(state, n)
        const running = yield* consumer(state)
        yield* Effect.yieldNow
        yield* running.drain({ deadline: 0 })
      }),
    "pause, resume": (state) =>
      Effect.gen(function* () {
        const running = yield* consumer(state)
        yield* running.pause
        yield* publish(state, 1)
        yield* running.resume
      }),
    "replay of dead letters": (state) =>
      Effect.gen(function* () {
        yield* publish(state, 3)
        yield* consumer(state)
        yield* Effect.repeat(Effect.yieldNow, { times: 20 })
        yield* DeadLetters.replay(Numbers)
      })
  }
  for (const [name, operation] of Object.entries(operations)) {
    it.live(`${name}: nothing is lost`, () =>
      Effect.map(sweep(operation), (points) => {
        assert.isAbove(points, 2)
      })
    )
  }
})
