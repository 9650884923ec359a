/** A quorum queue that cannot be consumed from: the server closes the connection of whoever tries. */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope, Stream } from "effect"
import { RabbitMq } from "millrace/rabbitmq"
import type { Delivery, Subscription } from "../../../src/messaging/Driver.ts"
import { describeWith } from "../services.ts"
import { driver, idOf, subscribe, takeOne } from "../support.ts"
import { fresh, proxied, send, until } from "./support.ts"

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp

  /** Stops or starts the one member of a queue, as when most of its members are gone. */
  const member = (queue: string, what: "stop_server" | "restart_server") =>
    rabbitmq.exec([
      "rabbitmqctl",
      "-q",
      "eval",
      `{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"${queue}">>)),
        ra:${what}(quorum_queues, amqqueue:get_pid(Q)).`
    ])
  const heal = (queue: string) => member(queue, "restart_server")
  const sicken = (queue: string) => Effect.acquireRelease(member(queue, "stop_server"), () => heal(queue))

  const isWell = (subscription: Subscription) => subscription.problem?.() === undefined

  /** A layer by a proxy that counts its connections, in a scope of its own. */
  const opened = Effect.gen(function* () {
    const { proxy, url: by } = yield* proxied(url)
    const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
    const layer = RabbitMq.layer({ url: by, waitForConnection: "3 seconds" })
    const broker = yield* Effect.provideContext(driver, yield* Layer.buildWithScope(layer, scope))
    /** Waits for so many more connections. */
    const more = (count: number) =>
      Effect.flatMap(proxy.connections, ({ accepted }) =>
        Effect.repeat(proxy.connections, {
          until: (now) => now.accepted >= accepted + count,
          schedule: Schedule.spaced("5 millis")
        })
      )
    /** Waits until so many are open. */
    const open = (count: number) =>
      Effect.repeat(proxy.connections, { until: ({ open }) => open === count, schedule: Schedule.spaced("5 millis") })
    return { broker, cut: proxy.cut, close: Scope.close(scope, Exit.void), more, open }
  })

  it.live("consumers of other queues are soon left alone, and that of the sick queue goes on when it is well", () =>
    Effect.gen(function* () {
      const { broker, close, cut, more, open } = yield* opened
      const sick = fresh()
      const others = Array.from({ length: 5 }, fresh)
      const own = yield* Scope.make()
      const ill = yield* Scope.provide(subscribe(broker, { topic: sick }), own)
      const well = yield* Effect.forEach(others, (topic) => subscribe(broker, { topic }))
      const lost: Array<Delivery> = []
      for (const subscription of well) {
        yield* Effect.forkScoped(
          Stream.runForEach(subscription.lost, (some) => Effect.sync(() => lost.push(...some))),
          { startImmediately: true }
        )
      }
      yield* sicken(`${sick}:g`)
      yield* cut
      // Two that are opened again, two for those that the sick queue has closed, and then some for it alone.
      yield* more(6)
      yield* until("the others consume", () => well.every(isWell))
      yield* broker.publish(others.map((topic) => send(topic, topic)))
      const held = yield* Effect.forEach(well, takeOne)
      yield* more(3)
      assert.isFalse(isWell(ill))
      assert.deepStrictEqual(lost, [])
      assert.deepStrictEqual(held.map(idOf), others)

      yield* heal(`${sick}:g`)
      yield* until("it consumes again", () => isWell(ill))
      yield* open(3)
      yield* broker.publish([send(sick, "1")])
      assert.strictEqual(idOf(yield* takeOne(ill)), "1")
      assert.deepStrictEqual(lost, [])
      // Its connection goes with it.
      yield* Scope.close(own, Exit.void)
      yield* open(2)
      yield* close
      yield* open(0)
    }).pipe(Effect.scoped)
  )

  it.live(
    "a consumer that begins at a sick queue fails as Unavailable, and does not close the others' connection for long",
    () =>
      Effect.gen(function* () {
        const { broker, more, open } = yield* opened
        const [sick, topic] = [fresh(), fresh()]
        yield* broker.declare({ topic: sick, groups: ["g"] })
        const other = yield* subscribe(broker, { topic })
        yield* sicken(`${sick}:g`)
        const beginning = yield* Effect.forkScoped(Effect.flip(Effect.scoped(subscribe(broker, { topic: sick }))))
        yield* more(4)
        yield* until("the other consumes", () => isWell(other))
        yield* broker.publish([send(topic, "1")])
        const held = yield* takeOne(other)
        const { reason } = yield* Fiber.join(beginning)
        assert.strictEqual(reason._tag, "Unavailable")
        assert.deepStrictEqual(yield* other.settle([{ _tag: "Acknowledge", delivery: held }]), ["Unconfirmed"])
        yield* open(2)
      }).pipe(Effect.scoped)
  )

  it.live("what was abandoned on a connection of its own comes back when the layer closes", () =>
    Effect.gen(function* () {
      const { broker, close, cut, more, open } = yield* opened
      const sick = fresh()
      const own = yield* Scope.make()
      const ill = yield* Scope.provide(subscribe(broker, { topic: sick }), own)
      yield* sicken(`${sick}:g`)
      yield* cut
      yield* more(5)
      yield* heal(`${sick}:g`)
      yield* until("it consumes again", () => isWell(ill))
      yield* broker.publish([send(sick, "abandoned"), send(sick, "other")])
      yield* ill.settle([{ _tag: "Abandon", delivery: yield* takeOne(ill) }])
      yield* Scope.close(own, Exit.void)
      const next = yield* subscribe(yield* driver, { topic: sick })
      assert.strictEqual(idOf(yield* takeOne(next)), "other")
      assert.strictEqual((yield* Effect.timeoutOption(next.take(1, 1000), "300 millis"))._tag, "None")
      yield* open(3)
      yield* close
      assert.strictEqual(idOf(yield* takeOne(next)), "abandoned")
    }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url })))
  )
})
