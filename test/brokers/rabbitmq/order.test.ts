/** Order by key: one process of a group receives, and what it leaves behind comes to the next one in its order. */
import { assert, it } from "@effect/vitest"
import type { Scope } from "effect"
import { Effect, Exit, Fiber, Layer, Option, Schema, Scope as Scopes, Stream } from "effect"
import { Consumer, Topic } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import type { Broker } from "../../../src/messaging/Broker.ts"
import { BrokerError } from "../../../src/messaging/BrokerError.ts"
import type { Delivery, Driver, Subscription } from "../../../src/messaging/Driver.ts"
import { describeWith } from "../services.ts"
import { driver, envelope, idOf, subscribe, takeOne } from "../support.ts"
import { fresh, proxied, rawChannel, send, until } from "./support.ts"

const everything = Number.MAX_SAFE_INTEGER

const acknowledge = (subscription: Subscription, deliveries: ReadonlyArray<Delivery>) =>
  subscription.settle(deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery })))

const takeAll = (subscription: Subscription, count: number) =>
  Effect.gen(function* () {
    const all: Array<Delivery> = []
    while (all.length < count) all.push(...(yield* subscription.take(count - all.length, everything)))
    return all
  })

const retry = (subscription: Subscription, delivery: Delivery, delay: number) =>
  subscription.settle([
    {
      _tag: "Retry",
      delivery,
      delay,
      envelope: { ...delivery.message.envelope, attempt: delivery.message.envelope.attempt + 1 }
    }
  ])

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const layer = RabbitMq.layer({ url, order: true })
  const ctl = (...args: ReadonlyArray<string>) => rabbitmq.exec(["rabbitmqctl", "-q", ...args])

  const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope | Broker>) =>
    it.live(name, () => body.pipe(Effect.scoped, Effect.provide(layer)))

  /** Messages `0`, `1` and so on, each of the key that it is given. */
  const publish = (broker: Driver, topic: string, keys: ReadonlyArray<string>, from = 0) =>
    broker.publish(
      keys.map((key, n) => send(topic, `${from + n}`, { envelope: envelope(`${from + n}`, { topic, key }) }))
    )

  const topicWith = (keys: ReadonlyArray<string>) =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      yield* broker.declare({ topic, groups: ["g"] })
      yield* publish(broker, topic, keys)
      return { broker, topic }
    })

  const inOrder = { order: "key", group: "g" } as const

  test(
    "a subscription that closes while the server still hands out leaves the queue to the next one",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(Array.from({ length: 3000 }, (_, n) => `k${n}`))
      for (let round = 0; round < 5; round++) yield* Effect.scoped(subscribe(broker, { ...inOrder, topic }))
      const next = yield* subscribe(broker, { ...inOrder, topic })
      assert.strictEqual(idOf(yield* takeOne(next)), "0")
    })
  )

  for (const queueType of ["quorum", "classic"] as const) {
    test(
      `${queueType}: what a process with a large credit leaves, one with a small credit leaves again in order`,
      Effect.gen(function* () {
        const topic = fresh()
        const left = Array.from({ length: 600 }, (_, n) => `${n}`)
        for (const [credit, count] of [
          [300, 300],
          [40, 10],
          [40, 10],
          [600, 580]
        ] as const) {
          yield* Effect.gen(function* () {
            const broker = yield* driver
            const subscription = yield* subscribe(broker, { ...inOrder, topic, credit })
            if (credit === 300) yield* publish(broker, topic, left)
            const all = yield* takeAll(subscription, count)
            assert.deepStrictEqual(all.map(idOf), left.slice(0, count))
            // In the middle, so that what is left has gaps.
            yield* acknowledge(subscription, all.slice(5, 15))
            left.splice(5, Math.min(10, count - 5))
          }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url, queueType, order: true })))
        }
      })
    )
    test(
      `${queueType}: whatever of many deliveries is settled when connections die, the next process gets the rest in order`,
      Effect.gen(function* () {
        const { proxy, url: by } = yield* proxied(url)
        const ordered = RabbitMq.layer({ url: by, queueType, order: true })
        const topic = fresh()
        yield* Effect.gen(function* () {
          const broker = yield* driver
          yield* broker.declare({ topic, groups: ["g"] })
          for (let n = 0; n < 1200; n += 400) {
            const keys = Array.from({ length: 400 }, (_, i) => `k${(n + i) % 60}`)
            yield* publish(broker, topic, keys, n)
          }
        }).pipe(Effect.provide(ordered))
        const done = new Set<number>()
        const problems: Array<string> = []
        /** A process that settles some of what it gets in any order, until it is closed. */
        const member = (name: string, credit: number) =>
          Effect.gen(function* () {
            const subscription = yield* subscribe(yield* driver, { ...inOrder, topic, credit, perKey: 3 })
            let held: Array<Delivery> = []
            yield* Effect.forkScoped(
              Stream.runForEach(subscription.lost, (some) =>
                Effect.sync(() => {
                  held = held.filter((one) => !some.includes(one))
                })
              ),
              { startImmediately: true }
            )
            for (;;) {
              // The last ones of all are held when no more come.
              const some = yield* Effect.timeoutOption(subscription.take(40, everything), 50)
              for (const delivery of Option.getOrElse(some, () => [])) {
                const n = Number(idOf(delivery))
                for (let earlier = n - 60; earlier >= 0; earlier -= 60) {
                  if (done.has(earlier) || held.some((one) => idOf(one) === String(earlier))) continue
                  problems.push(`${name} got ${n} before ${earlier}`)
                }
                held.push(delivery)
              }
              const [first] = held
              if (first === undefined) continue
              const mine = held.filter((one) => one === first || Math.random() < 0.5).toReversed()
              const answers = yield* acknowledge(subscription, mine)
              mine.forEach((one, i) => answers[i] !== "Lost" && done.add(Number(idOf(one))))
              held = held.filter((one) => !mine.includes(one))
            }
          }).pipe(Effect.scoped, Effect.provide(ordered))
        const members = [member("a", 150), member("b", 40), member("c", 300)]
        const fibers = yield* Effect.forEach(members, (one) => Effect.forkScoped(one))
        for (let cut = 0; cut < 6 && done.size < 1100; cut++) {
          const had = done.size
          yield* until("some are done", () => done.size >= had + 60 || done.size === 1200)
          // Of all of them, or of one, in good order.
          if (cut % 2 === 0) yield* proxy.cut
          else yield* Fiber.interrupt(fibers[cut % 3] as Fiber.Fiber<unknown, unknown>)
          if (cut % 2 === 1) fibers[cut % 3] = yield* Effect.forkScoped(member(`again ${cut}`, 60 * cut))
        }
        yield* until("all are done", () => done.size === 1200)
        assert.deepStrictEqual(problems, [])
      })
    )
  }

  test(
    "a retry holds back its key and no other, with its attempt, and more of its key than may be held",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith([...Array<string>(300).fill("slow"), "other", "other"])
      const subscription = yield* subscribe(broker, { ...inOrder, topic, credit: 4, perKey: 2 })
      const [first, second, ...more] = yield* takeAll(subscription, 4)
      if (first === undefined || second === undefined) return assert.fail("two of the slow key and two others")
      assert.deepStrictEqual([first, second, ...more].map(idOf), ["0", "1", "300", "301"])
      yield* acknowledge(subscription, more)
      const before = Date.now()
      assert.deepStrictEqual(yield* retry(subscription, first, 400), ["Unconfirmed"])
      assert.deepStrictEqual(yield* retry(subscription, first, 400), ["Unconfirmed"], "again changes nothing")
      yield* subscription.settle([{ _tag: "Release", delivery: second }])
      yield* publish(broker, topic, ["third"], 500)
      assert.strictEqual(idOf(yield* takeOne(subscription)), "500", "other keys go on")
      const [again, behind] = yield* takeAll(subscription, 2)
      assert.isAtLeast(Date.now() - before, 399)
      assert.deepStrictEqual(
        [again, behind].map((one) => one && [idOf(one), one.message.envelope.attempt]),
        [
          ["0", 2],
          ["1", 1]
        ]
      )
    })
  )

  test(
    "a retry that waits outlives its channel in this process, and the attempts begin anew in another one",
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      const { broker, topic } = yield* topicWith(["k", "k", "k"])
      yield* Effect.gen(function* () {
        const subscription = yield* subscribe(yield* driver, { ...inOrder, topic })
        const [first, ...behind] = yield* takeAll(subscription, 3)
        if (first === undefined) return assert.fail("nothing came")
        yield* retry(subscription, first, 1500)
        yield* subscription.settle(behind.map((delivery) => ({ _tag: "Release", delivery })))
        const due = Date.now() + 1500
        yield* proxy.cut
        const again = yield* takeOne(subscription)
        assert.isAtLeast(Date.now(), due - 5)
        assert.deepStrictEqual([idOf(again), again.message.envelope.attempt], ["0", 2])
        yield* retry(subscription, again, 60_000)
      }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: by, order: true })))
      const other = yield* subscribe(broker, { ...inOrder, topic })
      const again = yield* takeOne(other)
      assert.deepStrictEqual([idOf(again), again.message.envelope.attempt], ["0", 1])
    })
  )

  test(
    "what is not acknowledged in the server's time is given back with all that is held, in order",
    Effect.gen(function* () {
      const { topic } = yield* topicWith(["a", "b", "a", "b"])
      yield* Effect.gen(function* () {
        const subscription = yield* subscribe(yield* driver, { ...inOrder, topic })
        const lost: Array<Delivery> = []
        yield* Effect.forkScoped(
          Stream.runForEach(subscription.lost, (some) => Effect.sync(() => lost.push(...some))),
          { startImmediately: true }
        )
        const [first, second] = yield* takeAll(subscription, 2)
        if (first === undefined || second === undefined) return assert.fail("two of four")
        yield* retry(subscription, first, 0)
        const again = yield* takeOne(subscription)
        yield* until("all that is held is lost", () => lost.length === 2)
        assert.sameMembers(lost, [second, again])
        const all = yield* takeAll(subscription, 4)
        assert.deepStrictEqual(
          all.map((one) => [idOf(one), one.message.envelope.attempt]),
          [
            ["0", 2],
            ["1", 1],
            ["2", 1],
            ["3", 1]
          ]
        )
        assert.deepStrictEqual(yield* acknowledge(subscription, [second]), ["Lost"])
      }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url, order: true, acknowledgementTimeout: "2 seconds" })))
    })
  )

  test(
    "what is given back when the server's time is nearly over comes again with all of that time, and so do the others",
    Effect.gen(function* () {
      const { topic } = yield* topicWith(["a", "b", "a"])
      yield* Effect.gen(function* () {
        // A tenth of the lease is more than the server's time: whatever is given back has too little of it left.
        const subscription = yield* subscribe(yield* driver, { ...inOrder, topic, lease: 30_000 })
        const lost: Array<Delivery> = []
        yield* Effect.forkScoped(
          Stream.runForEach(subscription.lost, (some) => Effect.sync(() => lost.push(...some))),
          { startImmediately: true }
        )
        const [first, second] = yield* takeAll(subscription, 2)
        if (first === undefined || second === undefined) return assert.fail("two of three")
        assert.deepStrictEqual(yield* subscription.settle([{ _tag: "Release", delivery: first }]), ["Unconfirmed"])
        const again = yield* takeAll(subscription, 3)
        assert.deepStrictEqual(again.map(idOf), ["0", "1", "2"])
        const oldest = Math.max(first.leaseEndsAt ?? 0, second.leaseEndsAt ?? 0)
        for (const { leaseEndsAt } of again) assert.isAbove(leaseEndsAt ?? 0, oldest)
        assert.deepStrictEqual(lost, [second])
      }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url, order: true, acknowledgementTimeout: "2 seconds" })))
    })
  )

  test(
    "a handler that takes longer than the server waits runs once in each of the server's times",
    Effect.gen(function* () {
      const topic = Topic.make(fresh(), {
        schema: Schema.Struct({ n: Schema.Number }),
        version: 1,
        key: () => "k",
        groups: ["g"]
      })
      const starts: Array<number> = []
      const handler = () =>
        Effect.suspend(() => {
          starts.push(performance.now())
          return Effect.never
        })
      // The consumer gives up a twelfth of its lease before the end: 1.3 seconds after the delivery, and half a second early.
      yield* Consumer.make(topic, handler, { ...inOrder, lease: "6 seconds" })
      yield* topic.publish({ n: 1 })
      yield* until("it ran three times", () => starts.length >= 3)
      const [, second = 0, third = 0] = starts
      assert.isAbove(third - second, 600)
    }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url, order: true, acknowledgementTimeout: "2 seconds" })))
  )

  test(
    "a handler that cannot be stopped keeps its key and its group until the connection ends",
    Effect.gen(function* () {
      const { broker, topic } = yield* topicWith(["k", "k", "other"])
      const scope = yield* Scopes.make()
      const holder = yield* Effect.provideContext(driver, yield* Layer.buildWithScope(Layer.fresh(layer), scope))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* subscribe(holder, { ...inOrder, topic })
          yield* subscription.settle([{ _tag: "Abandon", delivery: yield* takeOne(subscription) }])
        })
      )
      const next = yield* subscribe(broker, { ...inOrder, topic })
      const taking = yield* Effect.forkScoped(takeAll(next, 3))
      yield* Effect.sleep(300)
      assert.isUndefined(taking.pollUnsafe())
      yield* Scopes.close(scope, Exit.void)
      assert.deepStrictEqual((yield* Fiber.join(taking)).map(idOf), ["0", "1", "2"])
    })
  )

  test(
    "queues of named groups alone have one consumer; others refuse order, and a queue that is otherwise is Incompatible",
    Effect.gen(function* () {
      const topic = fresh()
      const problemOf = (effect: Effect.Effect<unknown, unknown, Broker>, order?: true | ReadonlyArray<string>) =>
        effect.pipe(
          Effect.provide(RabbitMq.layer({ url, order })),
          Effect.flip,
          Effect.map((error) => (error instanceof BrokerError ? error : assert.fail(String(error))))
        )
      const declare = Effect.flatMap(driver, (broker) => broker.declare({ topic, groups: ["in order", "not"] }))
      yield* Effect.provide(declare, RabbitMq.layer({ url, order: ["in order"] }))
      const listed = yield* ctl("list_queues", "name", "arguments")
      const lines = listed.split("\n").filter((line) => line.startsWith(topic))
      assert.deepStrictEqual(
        lines.map((line) => [line.split("\t")[0], line.includes("x-single-active-consumer")]).toSorted(),
        [
          [`${topic}:in order`, true],
          [`${topic}:in order:dead`, false],
          [`${topic}:not`, false],
          [`${topic}:not:dead`, false]
        ]
      )
      const consume = (group: string) =>
        Effect.scoped(Effect.flatMap(driver, (broker) => subscribe(broker, { topic, group, order: "key" })))
      const unsupported = yield* problemOf(consume("not"), ["in order"])
      assert.match(unsupported.message, /group "not" is not declared for order by key; name the group/)
      for (const [order, group] of [
        [undefined, "in order"],
        [true, "not"]
      ] as const) {
        const { message, reason } = yield* problemOf(
          Effect.flatMap(driver, (broker) => broker.declare({ topic, groups: [group] })),
          order
        )
        assert.deepInclude(reason, { _tag: "Rejected", code: "Incompatible" })
        assert.match(message, /'x-single-active-consumer' for queue/)
      }
      // The raw client may look at it too: it is there, and nobody consumes.
      const channel = yield* rawChannel(url)
      assert.strictEqual((yield* Effect.promise(() => channel.checkQueue(`${topic}:in order`))).consumerCount, 0)
    })
  )
})
