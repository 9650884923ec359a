/** What the driver does at the limits of a server: those of a server of its own, started with other settings. */
import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, References, Result, Schedule, Schema, Scope, Stream } from "effect"
import { Consumer, Topic } from "millrace"
import { Nsq } from "millrace/nsq"
import { describeWith } from "../services.ts"
import { driver, message, subscribe, take, takeOne } from "../support.ts"
import { nsqd } from "./server.ts"
import { connect, fresh, keptLog, until } from "./support.ts"

const quietly = Effect.provideService(References.MinimumLogLevel, "Error")

describeWith("nsq", (nsq) => {
  const layer = Nsq.layer({ nsqd: [{ tcp: nsq.urls.nsqd1, http: nsq.urls.nsqd1Http }] })

  it.live("a delay above max-req-timeout takes several steps, learned from the server, and is never early", () =>
    Effect.gen(function* () {
      // Not asked by HTTP, so that the first step is refused.
      const { tcp } = yield* nsqd("-max-req-timeout=400ms", "-mem-queue-size=0")
      yield* Effect.gen(function* () {
        const broker = yield* driver
        const topic = fresh()
        const subscription = yield* subscribe(broker, { topic })
        const before = Date.now()
        const destination = { _tag: "Topic", topic } as const
        const answers = yield* broker.publish([message("late", { destination, delay: 1500 })])
        assert.deepStrictEqual(answers, [{ _tag: "Confirmed" }])
        const delivery = yield* takeOne(subscription)
        assert.isAtLeast(Date.now() - before, 1499)
        // Its steps are not deliveries.
        assert.isAtMost(delivery.deliveries ?? 0, 2)
        const { envelope } = delivery.message
        yield* subscription.settle([{ _tag: "Retry", delivery, delay: 1000, envelope: { ...envelope, attempt: 2 } }])
        const retried = Date.now()
        const again = yield* takeOne(subscription)
        assert.isAtLeast(Date.now() - retried, 999)
        assert.strictEqual(again.message.envelope.attempt, 2)
      }).pipe(Effect.provide(Nsq.layer({ nsqd: [tcp] })))
    }).pipe(Effect.scoped, quietly)
  )

  it.live("a lease is renewed up to max-msg-timeout, and then the handler is interrupted with LeaseLost", () =>
    Effect.gen(function* () {
      const { tcp } = yield* nsqd("-max-msg-timeout=3s")
      yield* Effect.gen(function* () {
        const topic = Topic.make(fresh(), { schema: Schema.Number, version: 1, groups: ["g"] })
        const exits: Array<Exit.Exit<unknown, unknown>> = []
        const began = Date.now()
        let after = 0
        yield* Consumer.make(
          topic,
          () =>
            Effect.onExit(Effect.never, (exit) =>
              Effect.sync(() => {
                after ||= Date.now() - began
                exits.push(exit)
              })
            ),
          { group: "g", lease: "1 second", shutdownDeadline: 0 }
        )
        yield* topic.publish(1)
        yield* Effect.repeat(
          Effect.sync(() => exits.length > 0),
          { until: (done) => done, schedule: Schedule.spaced("10 millis") }
        )
        const [exit] = exits
        assert.isTrue(exit !== undefined && Exit.isFailure(exit) && Consumer.isLeaseLost(exit.cause), String(exit))
        assert.isAtLeast(after, 2000)
      }).pipe(Effect.scoped, Effect.provide(Nsq.layer({ nsqd: [tcp] })))
    }).pipe(Effect.scoped, quietly)
  )

  it.live("warns of a server that keeps messages in memory, and of no other", () =>
    Effect.gen(function* () {
      const warned = (settings: Nsq.Options<"default">) =>
        Effect.gen(function* () {
          const log = keptLog()
          const told = Effect.repeat(
            Effect.sync(() => log.lines.length > 0),
            { until: (told) => told, schedule: Schedule.spaced("10 millis") }
          )
          const broker = Layer.build(Nsq.layer(settings))
          yield* Effect.scoped(Effect.andThen(broker, Effect.timeoutOption(told, "2 seconds"))).pipe(
            Effect.provide(log.layer)
          )
          return log.lines.filter((line) => line.includes("mem-queue-size=0"))
        })
      const forgetful = yield* nsqd()
      assert.lengthOf(yield* warned({ nsqd: [forgetful] }), 1)
      assert.lengthOf(yield* warned({ nsqd: [{ tcp: nsq.urls.nsqd1, http: nsq.urls.nsqd1Http }] }), 0)
    }).pipe(Effect.scoped)
  )

  it.live("one connection of credit is enough for four: each gets its turn", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      const subscription = yield* subscribe(broker, { topic, credit: 1 })
      const ids = Array.from({ length: 12 }, (_, n) => `m${n}`)
      for (const [n, id] of ids.entries()) {
        // To the topic, and to the group's own, at both servers in turns.
        const destination =
          n < 6 ? ({ _tag: "Topic", topic } as const) : ({ _tag: "Group", topic, group: "g" } as const)
        yield* broker.publish([message(id, { destination })])
      }
      const got = new Set<string>()
      while (got.size < ids.length) {
        const delivery = yield* takeOne(subscription)
        got.add(delivery.message.envelope.id)
        yield* subscription.settle([{ _tag: "Acknowledge", delivery }])
      }
      const more = yield* Effect.timeoutOption(take(subscription), "300 millis")
      assert.strictEqual(more._tag, "None")
    }).pipe(Effect.scoped, Effect.provide(Nsq.layer({ lookupd: [nsq.urls.lookupd] })))
  )

  it.live("with more servers than credit a busy one leaves the others their turns", () =>
    Effect.gen(function* () {
      const servers = yield* Effect.replicateEffect(nsqd("-mem-queue-size=0"), 4)
      const topic = fresh()
      const destination = { _tag: "Topic", topic } as const
      const flood = Array.from({ length: 500 }, (_, n) => `flood${n}`)
      for (const [n, server] of servers.entries()) {
        const ids = n === 0 ? flood : [`rare${n}`]
        const publish = Effect.gen(function* () {
          const broker = yield* driver
          yield* broker.declare({ topic, groups: ["g"] })
          yield* broker.publish(ids.map((id) => message(id, { destination })))
        })
        yield* Effect.provide(publish, Nsq.layer({ nsqd: [server] }))
      }
      yield* Effect.gen(function* () {
        const subscription = yield* subscribe(yield* driver, { topic, credit: 2 })
        const order: Array<string> = []
        while (new Set(order).size < flood.length + 3) {
          const delivery = yield* takeOne(subscription)
          order.push(delivery.message.envelope.id)
          yield* Effect.sleep("2 millis")
          yield* subscription.settle([{ _tag: "Acknowledge", delivery }])
        }
        const lastRare = order.findLastIndex((id) => id.startsWith("rare"))
        assert.isBelow(lastRare, flood.length - 1, "the rare ones came behind all of the flood")
      }).pipe(Effect.scoped, Effect.provide(Nsq.layer({ nsqd: servers })))
    }).pipe(Effect.scoped, quietly)
  )

  it.live("what was handed over for credit that is gone goes to others", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      const subscription = yield* subscribe(broker, { topic, credit: 10 })
      const ids = Array.from({ length: 10 }, (_, n) => `m${n}`)
      yield* broker.publish(ids.map((id) => message(id, { destination: { _tag: "Topic", topic } })))
      const backlog = broker.backlog({ topic, group: "g" })
      yield* Effect.repeat(backlog, { until: ({ inFlight }) => inFlight === 10 })
      const held = yield* take(subscription, 2)
      yield* subscription.setCredit(2)
      const other = yield* subscribe(broker, { topic })
      const rest = new Set<string>()
      while (rest.size < 8) for (const id of yield* take(other)) rest.add(id)
      assert.deepStrictEqual([...held, ...rest].toSorted(), ids)
      assert.strictEqual((yield* backlog).waiting, 0)
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("a channel with as many consumers as its server allows can be declared, and is read when one has left", () =>
    Effect.gen(function* () {
      const log = keptLog()
      const { tcp } = yield* nsqd("-max-channel-consumers=1")
      const topic = fresh()
      yield* Effect.gen(function* () {
        const scope = yield* Scope.fork(yield* Effect.scope)
        yield* Scope.provide(subscribe(yield* connect({ nsqd: [tcp] }), { topic }), scope)
        const other = yield* connect({ nsqd: [tcp] })
        yield* other.declare({ topic, groups: ["g"] })
        const waiting = yield* Effect.forkScoped(subscribe(other, { topic }))
        yield* until("it is told", () => log.lines.some((line) => line.includes("exceeds limit of 1")))
        yield* Scope.close(scope, Exit.void)
        yield* Fiber.join(waiting)
      }).pipe(Effect.scoped, Effect.provide(log.layer))
    }).pipe(Effect.scoped)
  )

  it.live("what is not taken in its lease is told as lost", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      const subscription = yield* subscribe(broker, { topic, credit: 1, lease: 1000 })
      yield* broker.publish([message("m", { destination: { _tag: "Topic", topic } })])
      const delivery = yield* takeOne(subscription)
      const lost = yield* Effect.forkScoped(Stream.runHead(subscription.lost))
      const told = yield* Fiber.join(lost)
      assert.isTrue(told._tag === "Some" && told.value.includes(delivery))
      assert.deepStrictEqual(yield* subscription.settle([{ _tag: "Acknowledge", delivery }]), ["Lost"])
      assert.deepStrictEqual(yield* subscription.renew([delivery]), ["Lost"])
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("no server, and one that is none, are Unavailable; wrong options are a defect that names them", () =>
    Effect.gen(function* () {
      const nobody = yield* Effect.result(
        Effect.scoped(Layer.build(Nsq.layer({ nsqd: ["127.0.0.1:1"], connectTimeout: "300 millis" })))
      )
      assert.isTrue(Result.isFailure(nobody) && nobody.failure.reason._tag === "Unavailable")
      const noLookup = yield* Effect.result(
        Effect.scoped(Layer.build(Nsq.layer({ lookupd: ["http://127.0.0.1:1"], connectTimeout: "300 millis" })))
      )
      assert.isTrue(Result.isFailure(noLookup) && noLookup.failure.message.includes("127.0.0.1:1"))
      const wrong = yield* Effect.exit(Effect.scoped(Layer.build(Nsq.layer({ nsqd: ["nowhere"], heartbeat: 5 }))))
      const text = Exit.isFailure(wrong) ? Cause.pretty(wrong.cause) : ""
      for (const part of ["nsqd must be a list of addresses host:port", "heartbeat must be a duration"])
        assert.include(text, part)
    })
  )
})
