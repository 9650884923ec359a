/** What the driver does where a real nsqd cannot be brought to: nsqd of the test's own, which answer by a script. */
import { setTimeout } from "node:timers/promises"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, type Duration, Effect, Exit, Fiber, References, Schedule, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { Driver } from "millrace"
import { Consumer, Registry, Topic } from "millrace"
import { Nsq } from "millrace/nsq"
import { whileTimePasses } from "millrace/testing"
import { idOf, message, subscribe, takeOne } from "../support.ts"
import { type FakeNsqd, fakeHttp, fakeNsqd, idAt } from "./fake.ts"
import { connect, hostAndPort, keptLog, until } from "./support.ts"

const quietly = Effect.provideService(References.MinimumLogLevel, "Fatal")

const topic = "t"
const own = "t..g..retry"
const to = (topic: string) => ({ destination: { _tag: "Topic", topic } as const })
const ids = (count: number) => Array.from({ length: count }, (_, n) => idAt(n))

const timesSaid = ({ said }: FakeNsqd, line: string) => said.filter((other) => other === line).length

/** The ids of what was published to a topic. */
const publishedTo = (nsqd: FakeNsqd, topic: string) =>
  nsqd.published
    .filter((published) => published.topic === topic)
    .map(({ body }) => /"id":"([^"]*)"/.exec(body.toString())?.[1] ?? "")

/** The connections of a subscription, once they are there and ask for messages: an nsqd hands over none before. */
const readers = (nsqd: FakeNsqd, asking = true) =>
  Effect.gen(function* () {
    const places = () => [nsqd.reader(topic), nsqd.reader(own)]
    yield* until("both topics are read", () =>
      places().every((client) => client !== undefined && (client.ready > 0 || !asking))
    )
    const [main, retries] = places()
    return main === undefined || retries === undefined
      ? yield* Effect.die(new Error("they are gone"))
      : { main, retries }
  })

/** Time stands still unless the test moves it, and passes while all is closed. */
const atRest = <A, E>(body: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.acquireUseRelease(
    Scope.make(),
    (scope) => Scope.provide(body, scope),
    (scope, exit) => whileTimePasses(Scope.close(scope, exit))
  )

/** Moves time on until the condition holds: what servers are asked meanwhile takes a moment of real time. */
const passingUntil = (what: string, step: Duration.Input, condition: () => boolean) =>
  Effect.gen(function* () {
    const end = performance.now() + 40_000
    while (!condition()) {
      if (performance.now() > end) return yield* Effect.die(new Error(`${what}: not within 40 seconds`))
      yield* TestClock.adjust(step)
      yield* Effect.promise(() => setTimeout(5))
    }
  })

describe("credit", () => {
  /** One connection has forty messages in flight, more than it may have now, so that nothing is left for the other. */
  const crowded = Effect.gen(function* () {
    const nsqd = yield* fakeNsqd
    const broker = yield* connect({ nsqd: [nsqd.address] })
    const subscription = yield* subscribe(broker, { credit: 100 })
    const { main, retries } = yield* readers(nsqd)
    for (const id of ids(40)) main.deliver(id)
    const held: Array<Driver.Delivery> = []
    while (held.length < 40) held.push(...(yield* subscription.take(40, Number.MAX_SAFE_INTEGER)))
    yield* until("the other has what is kept for it", () => retries.ready === 1)
    yield* subscription.setCredit(16)
    yield* until("the other has no credit", () => retries.ready === 0)
    return { held, retries, subscription }
  })

  it.effect("held back from one connection while another is busy comes back with a settlement, at once", () =>
    Effect.gen(function* () {
      const { held, retries, subscription } = yield* crowded
      yield* subscription.settle(held.slice(10).map((delivery) => ({ _tag: "Acknowledge", delivery }) as const))
      // No time passes here, so nothing but the settlement can have done it.
      yield* until("the other has credit", () => retries.ready === 1)
    }).pipe(atRest, quietly)
  )

  it.effect("and with time, where leases have ended that nobody settled", () =>
    Effect.gen(function* () {
      const { held, retries, subscription } = yield* crowded
      yield* TestClock.adjust("20 seconds")
      // It keeps its connection busy: one that is not any more is a reason of its own to share anew.
      yield* subscription.renew(held.slice(0, 1))
      yield* TestClock.adjust("15 seconds")
      yield* until("the other has credit", () => retries.ready === 1)
      const lost = yield* Stream.runHead(subscription.lost)
      assert.lengthOf(lost._tag === "Some" ? lost.value : [], 39)
    }).pipe(atRest, quietly)
  )

  it.live("of a subscription whose group was removed is none, also by connections that come later", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      const http = yield* fakeHttp(() => 1)
      const broker = yield* connect({ nsqd: [{ tcp: nsqd.address, http: http.url }] })
      const subscription = yield* subscribe(broker, { credit: 10 })
      const { main, retries } = yield* readers(nsqd)
      const opened = () => http.asked.filter((path) => path === "/info").length
      yield* until("both have begun", () => opened() === 2)
      const [first, ...others] = ids(3)
      for (const id of ids(3)) main.deliver(id)
      const held = yield* takeOne(subscription)
      assert.strictEqual(idOf(held), first)
      yield* broker.removeGroup({ topic, group: "g" })
      assert.isTrue(http.asked.some((path) => path.startsWith("/channel/delete")))
      yield* until("nobody asks for more", () => main.ready === 0 && retries.ready === 0)
      for (const id of others) yield* until(`${id} is given back`, () => main.said.includes(`REQ ${id} 0`))
      // The consumer above may tell of its credit before it knows. And what is held can be settled still.
      yield* subscription.setCredit(10)
      yield* subscription.settle([{ _tag: "Acknowledge", delivery: held }])
      yield* until("it is finished", () => main.said.includes(`FIN ${first}`))
      assert.strictEqual(main.ready, 0)
      // The server ends the connections of a channel that is deleted. They are opened again, and ask for nothing.
      for (const client of [main, retries]) client.cut()
      yield* until("they are opened again", () => opened() === 4)
      const again = yield* readers(nsqd, false)
      again.main.deliver(idAt(9))
      yield* until("what comes all the same is given back", () => again.main.said.includes(`REQ ${idAt(9)} 0`))
      assert.deepStrictEqual([again.main.ready, again.retries.ready], [0, 0])
    }).pipe(Effect.scoped, quietly)
  )
})

describe("what was held from an nsqd that does not come back is sent to the group again", () => {
  /** Three messages of one nsqd, before it goes away: one held, one abandoned, one not taken; and another nsqd. */
  const left = (
    options: (away: FakeNsqd, other: FakeNsqd) => Effect.Effect<Nsq.Options<"default">, never, Scope.Scope>
  ) =>
    Effect.gen(function* () {
      const [away, other] = [yield* fakeNsqd, yield* fakeNsqd]
      const broker = yield* connect(yield* options(away, other))
      const scope = yield* Scope.fork(yield* Effect.scope)
      const subscription = yield* Scope.provide(subscribe(broker), scope)
      yield* readers(other)
      const { main } = yield* readers(away)
      for (const id of ids(3)) main.deliver(id)
      yield* until("all are here", main.beat())
      const delivery = yield* takeOne(subscription)
      const abandoned = yield* takeOne(subscription)
      yield* subscription.settle([{ _tag: "Abandon", delivery: abandoned }])
      away.goAway()
      const lost = yield* Stream.runHead(subscription.lost)
      assert.deepStrictEqual(lost._tag === "Some" && lost.value, [delivery, abandoned])
      assert.deepStrictEqual(other.published, [])
      return { other, scope }
    })

  it.effect("when no nsqlookupd has listed it for a while", () =>
    Effect.gen(function* () {
      let listed: ReadonlyArray<FakeNsqd> = []
      const { other } = yield* left((...both) => {
        listed = both
        const producers = () =>
          listed.map(({ address }) => {
            const { host, port } = hostAndPort(address)
            return { broadcast_address: host, tcp_port: port, http_port: 1, topics: [topic] }
          })
        return Effect.map(
          fakeHttp(() => ({ producers: producers() })),
          ({ url }) => ({ lookupd: [url] })
        )
      })
      listed = [other]
      yield* TestClock.adjust("9 minutes")
      assert.deepStrictEqual(other.published, [])
      yield* passingUntil("they are sent", "1 minute", () => other.published.length === 3)
      assert.deepStrictEqual(publishedTo(other, own).toSorted(), ids(3))
    }).pipe(atRest, quietly)
  )

  it.live("when the consumer closes", () =>
    Effect.gen(function* () {
      const { other, scope } = yield* left((away, other) => Effect.succeed({ nsqd: [away.address, other.address] }))
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(publishedTo(other, own).toSorted(), ids(3))
    }).pipe(Effect.scoped, quietly)
  )

  it.effect("and where nobody takes it, that is logged", () =>
    Effect.gen(function* () {
      const log = keptLog()
      const nsqd = yield* fakeNsqd
      yield* Effect.gen(function* () {
        const subscription = yield* subscribe(yield* connect({ nsqd: [nsqd.address] }))
        const { main } = yield* readers(nsqd)
        main.deliver(idAt(1))
        yield* takeOne(subscription)
        nsqd.goAway()
        yield* Stream.runHead(subscription.lost)
      }).pipe(atRest, Effect.provide(log.layer))
      const text = new RegExp(`message ${idAt(1)} .* is not sent again, since the subscription is closed`)
      yield* until("it is logged", () => log.lines.some((line) => text.test(line)))
    }).pipe(atRest)
  )
})

describe("what a server refuses", () => {
  const refusals = [
    ["E_BAD_TOPIC", "InvalidName"],
    ["E_AUTH_FAILED", "Denied"],
    ["E_SUB_FAILED", undefined]
  ] as const

  for (const [code, expected] of refusals) {
    it.live(`of the topic of a group's own, ${code}, is told by health and by the broker until it is read`, () =>
      Effect.gen(function* () {
        const nsqd = yield* fakeNsqd
        const refused = yield* Deferred.make<void>()
        let allowed = false
        nsqd.answer = (line) => {
          if (line === `SUB ${own} g` && !allowed) {
            Deferred.doneUnsafe(refused, Effect.void)
            return `${code} no`
          }
          // To be declared, and then to be read, which begins after the refusal.
          return line === `SUB ${topic} g` && timesSaid(nsqd, line) > 1
            ? Effect.runPromise(Effect.as(Deferred.await(refused), "OK"))
            : "OK"
        }
        yield* Effect.gen(function* () {
          const got: Array<number> = []
          const numbers = Topic.make(topic, { schema: Schema.Number, version: 1, groups: ["g"] })
          const consumer = yield* Consumer.make(numbers, (n) => Effect.sync(() => got.push(n)), { group: "g" })
          const registry = yield* Registry.Registry
          const notes = () =>
            [...registry.entries].filter(({ kind }) => kind === "broker").flatMap(({ notes }) => notes())
          const is = (status: string) =>
            Effect.repeat(consumer.health, {
              until: (health) => health.status === status,
              schedule: Schedule.spaced("10 millis")
            })
          const { problem } = yield* is("unreachable")
          assert.strictEqual(problem?.reason._tag === "Rejected" ? problem.reason.code : undefined, expected)
          const text = new RegExp(`nsqd ${nsqd.address} refuses channel "g" of topic "t..g..retry": .*${code}`)
          assert.match(problem?.message ?? "", text)
          assert.match(notes().join(), text)
          // The topic itself is read all the while.
          yield* until("the topic is read", () => (nsqd.reader(topic)?.ready ?? 0) > 0)
          nsqd.reader(topic)?.deliver(idAt(1), Buffer.from("7"))
          yield* until("a message is handled", () => got.length === 1)
          assert.strictEqual((yield* consumer.health).problem?.message, problem?.message)
          allowed = true
          yield* is("consuming")
          assert.deepStrictEqual(notes(), [])
        }).pipe(
          Effect.scoped,
          Effect.provide(Nsq.layer({ nsqd: [nsqd.address] })),
          Effect.provideService(Registry.Registry, Registry.makeUnsafe())
        )
      }).pipe(Effect.scoped, quietly)
    )
  }

  /** Declaring works, and reading does not. */
  const refuseReading = (nsqd: FakeNsqd, code: string) => {
    nsqd.answer = (line) => {
      return line === `SUB ${topic} g` && timesSaid(nsqd, line) > 1 ? `${code} no` : "OK"
    }
  }

  it.live("of the topic itself ends the subscription where it is for good", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      refuseReading(nsqd, "E_UNAUTHORIZED")
      const broker = yield* connect({ nsqd: [nsqd.address] })
      const error = yield* Effect.flip(subscribe(broker))
      assert.deepInclude(error.reason, { _tag: "Rejected", code: "Denied" })
    }).pipe(Effect.scoped, quietly)
  )

  it.effect("and where it is not, and goes on, the subscription says why it has not begun", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      refuseReading(nsqd, "E_SUB_FAILED")
      const broker = yield* connect({ nsqd: [nsqd.address], waitForConnection: "1 hour" })
      const subscribing = yield* Effect.forkScoped(Effect.flip(Effect.scoped(subscribe(broker))))
      // One to declare, and of two to read the first has been heard of.
      yield* passingUntil("it is refused", "1 second", () => timesSaid(nsqd, `SUB ${topic} g`) >= 3)
      const error = yield* whileTimePasses(Fiber.join(subscribing), { step: "1 minute" })
      assert.strictEqual(error.reason._tag, "Unavailable")
      assert.match(error.message, /refuses channel "g" of topic "t": .*E_SUB_FAILED/)
    }).pipe(atRest, quietly)
  )

  it.live("at one of two nsqd leaves the subscription to the other, and is told", () =>
    Effect.gen(function* () {
      const [refusing, other] = [yield* fakeNsqd, yield* fakeNsqd]
      const broker = yield* connect({ nsqd: [refusing.address, other.address] })
      yield* broker.declare({ topic, groups: ["g"] })
      refuseReading(refusing, "E_UNAUTHORIZED")
      const isRefused = () => timesSaid(refusing, `SUB ${topic} g`) > 1
      other.answer = (line) =>
        line === `SUB ${topic} g` ? Effect.runPromise(Effect.as(until("it is refused", isRefused), "OK")) : "OK"
      const subscription = yield* subscribe(broker)
      yield* until("it is told", () => subscription.problem?.() !== undefined)
      assert.include(subscription.problem?.()?.message, refusing.address)
      yield* until("the other is read", () => (other.reader(topic)?.ready ?? 0) > 0)
      other.reader(topic)?.deliver(idAt(1))
      assert.strictEqual(idOf(yield* takeOne(subscription)), idAt(1))
      refusing.answer = () => "OK"
      yield* until("it is over", () => subscription.problem?.() === undefined)
    }).pipe(Effect.scoped, quietly)
  )

  it.live("of a retry is told until the server has it", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      const subscription = yield* subscribe(yield* connect({ nsqd: [nsqd.address] }))
      const { main } = yield* readers(nsqd)
      nsqd.answer = (line) => (line === `PUB ${own}` ? "E_UNAUTHORIZED no" : "OK")
      main.deliver(idAt(1))
      const delivery = yield* takeOne(subscription)
      const { envelope } = delivery.message
      yield* subscription.settle([{ _tag: "Retry", delivery, delay: 0, envelope: { ...envelope, attempt: 2 } }])
      yield* until("it is told", () => subscription.problem?.() !== undefined)
      assert.deepInclude(subscription.problem?.()?.reason, { _tag: "Rejected", code: "Denied" })
      assert.notInclude(main.said, `FIN ${idAt(1)}`)
      nsqd.answer = () => "OK"
      yield* until("the message is finished", () => main.said.includes(`FIN ${idAt(1)}`))
      assert.isUndefined(subscription.problem?.())
    }).pipe(Effect.scoped, quietly)
  )
})

describe("an nsqd that comes later", () => {
  /** Two nsqd, of which the second is away. */
  const oneAway = Effect.gen(function* () {
    const [first, second] = [yield* fakeNsqd, yield* fakeNsqd]
    second.goAway()
    const broker = yield* connect({ nsqd: [first.address, second.address] })
    /** Publishes until the second has got one. */
    const publishThere = (topic: string) =>
      Effect.gen(function* () {
        while (second.published.length === 0) {
          yield* broker.publish([message("m", to(topic))])
          yield* Effect.sleep("5 millis")
        }
      }).pipe(Effect.timeout("40 seconds"))
    return { broker, second, publishThere }
  })
  const channelsBeforePublishing = ({ said }: FakeNsqd) =>
    said
      .slice(
        0,
        said.findIndex((line) => line.startsWith("PUB"))
      )
      .filter((line) => line.startsWith("SUB"))

  it.live("and refuses a channel has all others before messages go there; the refusal is logged", () =>
    Effect.gen(function* () {
      const log = keptLog()
      yield* Effect.gen(function* () {
        const { broker, publishThere, second } = yield* oneAway
        for (const topic of ["a", "b", "c"]) yield* broker.declare({ topic, groups: ["g"] })
        second.answer = (line) => (line === "SUB b g" ? 'E_UNAUTHORIZED AUTH failed for SUB on "b"' : "OK")
        second.comeBack()
        yield* publishThere("c")
        assert.deepStrictEqual(channelsBeforePublishing(second).toSorted(), ["SUB a g", "SUB b g", "SUB c g"])
      }).pipe(Effect.scoped, Effect.provide(log.layer))
      assert.lengthOf(
        log.lines.filter((line) => /refused channel "g" of topic "b".*E_UNAUTHORIZED/.test(line)),
        1
      )
    })
  )

  it.live("and refused a channel is asked for others of its topic", () =>
    Effect.gen(function* () {
      const { broker, publishThere, second } = yield* oneAway
      yield* broker.declare({ topic: "a", groups: ["refused"] })
      second.answer = (line) => (line === "SUB a refused" ? "E_UNAUTHORIZED" : "OK")
      second.comeBack()
      yield* publishThere("a")
      yield* broker.declare({ topic: "a", groups: ["g"] })
      assert.include(second.said, "SUB a g")
    }).pipe(Effect.scoped, quietly)
  )

  it.live("has also what is declared while it is connected to", () =>
    Effect.gen(function* () {
      const { broker, publishThere, second } = yield* oneAway
      yield* broker.declare({ topic: "before", groups: ["g"] })
      const gate = yield* Deferred.make<string>()
      second.answer = (line) => (line === "SUB before g" ? Effect.runPromise(Deferred.await(gate)) : "OK")
      second.comeBack()
      yield* until("its channels are being declared", () => second.said.includes("SUB before g"))
      yield* broker.declare({ topic: "meanwhile", groups: ["g"] })
      assert.notInclude(second.said, "SUB meanwhile g")
      yield* Deferred.succeed(gate, "OK")
      yield* publishThere("meanwhile")
      assert.deepStrictEqual(channelsBeforePublishing(second), ["SUB before g", "SUB meanwhile g"])
    }).pipe(Effect.scoped, quietly)
  )
})

describe("publishing", () => {
  it.live("a topic with much to publish leaves others their turns", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      const broker = yield* connect({ nsqd: [nsqd.address], maxUnconfirmed: 1 })
      const gate = yield* Deferred.make<string>()
      nsqd.answer = () => Effect.runPromise(Deferred.await(gate))
      const busy = Array.from({ length: 20 }, (_, n) => message(`busy${n}`, to("busy")))
      const publishing = yield* Effect.forEach([busy, [message("rare", to("rare"))]], (messages) =>
        Effect.forkChild(broker.publish(messages), { startImmediately: true })
      )
      yield* until("the first is on its way", () => nsqd.published.length === 1)
      yield* Deferred.succeed(gate, "OK")
      yield* Fiber.joinAll(publishing)
      assert.isAtMost(
        nsqd.published.findIndex(({ topic }) => topic === "rare"),
        2
      )
      assert.lengthOf(nsqd.published, 21)
    }).pipe(Effect.scoped, quietly)
  )

  it.live("what waits when the layer closes is answered: what may have been written, and what was not", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      const scope = yield* Scope.fork(yield* Effect.scope)
      const broker = yield* Scope.provide(connect({ nsqd: [nsqd.address], maxUnconfirmed: 1 }), scope)
      // It has it, and says nothing.
      nsqd.answer = () => new Promise(() => undefined)
      const publishing = yield* Effect.forkChild(broker.publish(["sent", "waits"].map((id) => message(id))), {
        startImmediately: true
      })
      yield* until("the first is on its way", () => nsqd.published.length === 1)
      yield* Scope.close(scope, Exit.void)
      const answers = yield* Effect.timeout(Fiber.join(publishing), "20 seconds")
      const late = yield* Effect.timeout(broker.publish([message("late")]), "20 seconds")
      const errors = [...answers, ...late].map((answer) => (answer._tag === "Failed" ? answer.error : undefined))
      assert.deepStrictEqual(
        errors.map((error) => `${error?.ids?.join()} ${error?.reason._tag}`),
        ["sent Unavailable", "waits Unavailable", "late Unavailable"]
      )
      assert.match(errors[0]?.message ?? "", /whether this message is there is not known/)
      for (const error of errors.slice(1)) assert.match(error?.message ?? "", /not sent: the layer .* is closed/)
      assert.lengthOf(nsqd.published, 1)
    }).pipe(Effect.scoped, quietly)
  )
})

describe("leases and settlements", () => {
  it.live("a lease that is longer than servers allow is Rejected, and the answer says what is allowed", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      const broker = yield* connect({ nsqd: [nsqd.address] })
      const minutes = 60_000
      const error = yield* Effect.flip(subscribe(broker, { lease: 15 * minutes + 1 }))
      assert.deepInclude(error.reason, { _tag: "Rejected", code: "Unsupported" })
      assert.match(error.message, /leases of 15 minutes at most.*shorter lease/)
      assert.isFalse(nsqd.said.some((line) => line.startsWith("SUB")))
      yield* subscribe(broker, { lease: 15 * minutes })
    }).pipe(Effect.scoped, quietly)
  )

  it.live("of settled messages a megabyte is remembered, so that one that came too late is told", () =>
    Effect.gen(function* () {
      const nsqd = yield* fakeNsqd
      const subscription = yield* subscribe(yield* connect({ nsqd: [nsqd.address] }))
      const { main } = yield* readers(nsqd)
      for (const id of ids(3)) main.deliver(id, Buffer.alloc(600 * 1024))
      const deliveries = yield* Effect.replicateEffect(takeOne(subscription), 3)
      yield* subscription.settle(deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery }) as const))
      for (const id of ids(3)) main.fail(`E_FIN_FAILED FIN ${id} failed ID not in flight`)
      const lost = yield* Stream.runHead(subscription.lost)
      assert.deepStrictEqual(lost._tag === "Some" && lost.value.map(idOf), ids(3).slice(2))
    }).pipe(Effect.scoped, quietly)
  )
})

describe("a connection", () => {
  it.live("that was lost is told of, and so is the next one; the first needs no word", () =>
    Effect.gen(function* () {
      const log = keptLog()
      const nsqd = yield* fakeNsqd
      const lines = (text: string) => log.lines.filter((line) => line.includes(text)).length
      yield* Effect.gen(function* () {
        yield* connect({ nsqd: [nsqd.address] })
        assert.strictEqual(lines("connected again"), 0)
        nsqd.goAway()
        yield* until("its end is told", () => lines("connecting again") === 1)
        nsqd.comeBack()
        yield* until("so is the next", () => lines(`connected again to nsqd ${nsqd.address}`) === 1)
      }).pipe(Effect.scoped, Effect.provide(log.layer))
      assert.strictEqual(lines("connecting again"), 1)
    }).pipe(Effect.scoped)
  )
})
