/** The broker in memory keeps the contract of a driver, on the test clock. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Memory } from "millrace/memory"
import { everyInterruptionPoint } from "millrace/testing"
import { driver, envelope, idOf, message, subscribe, take, takeOne } from "./support.ts"

/** A test with a broker of its own. */
const test = (
  name: string,
  body: Effect.Effect<void, unknown, Effect.Services<typeof driver> | Scope.Scope>,
  options = {}
) => it.effect(name, () => Effect.provide(body, Memory.layer(options)))

const publish = (...messages: ReadonlyArray<ReturnType<typeof message>>) =>
  Effect.flatMap(driver, (driver) => driver.publish(messages))

const nothing = Effect.fnUntraced(function* (effect: Effect.Effect<unknown, unknown>) {
  const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
  yield* TestClock.adjust(1)
  assert.isUndefined(fiber.pollUnsafe(), "something was handed over")
  yield* Fiber.interrupt(fiber)
})

describe("delivery", () => {
  test(
    "every group gets every message, whole, and an acknowledged one does not come again",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker, { group: "a" })
      const b = yield* subscribe(broker, { group: "b" })
      const sent = {
        ...message("1"),
        envelope: envelope("1", { headers: { "a-ü": "√" }, key: "k", correlationId: "c" })
      }
      assert.deepStrictEqual(yield* broker.publish([sent, message("2")]), [
        { _tag: "Confirmed" },
        { _tag: "Confirmed" }
      ])
      const [first, second] = yield* a.take(10, 1_000)
      assert.deepStrictEqual(first?.message, { envelope: sent.envelope, body: sent.body })
      if (first === undefined || second === undefined) return assert.fail("two were published")
      assert.deepStrictEqual(
        yield* a.settle([
          { _tag: "Acknowledge", delivery: first },
          { _tag: "Acknowledge", delivery: second }
        ]),
        ["Settled", "Settled"]
      )
      yield* nothing(take(a))
      assert.deepStrictEqual(yield* take(b), ["1", "2"])
    })
  )

  test(
    "members of a group share its messages",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker)
      const b = yield* subscribe(broker)
      yield* publish(message("1"), message("2"))
      assert.deepStrictEqual([yield* take(a, 1), yield* take(b, 5)], [["1"], ["2"]])
    })
  )

  test(
    "what the publisher does to its bytes afterwards does not reach the message",
    Effect.gen(function* () {
      const a = yield* subscribe(yield* driver)
      const sent = message("1")
      yield* publish(sent)
      sent.body.fill(0)
      assert.deepStrictEqual((yield* takeOne(a)).message.body, message("1").body)
    })
  )

  test(
    "a waiting take gets what is published together, up to max and maxBytes, but always one",
    Effect.gen(function* () {
      const a = yield* subscribe(yield* driver)
      const waiting = yield* Effect.forkChild(a.take(2, 1_000), { startImmediately: true })
      yield* publish(message("1"), message("2"), message("3"), message("4"), message("5"))
      assert.deepStrictEqual((yield* Fiber.join(waiting)).map(idOf), ["1", "2"])
      assert.deepStrictEqual((yield* a.take(9, 0)).map(idOf), ["3"])
      assert.deepStrictEqual((yield* a.take(9, 2)).map(idOf), ["4", "5"])
    })
  )

  test(
    "credit limits what is held, can be changed, and comes back with each settlement",
    Effect.gen(function* () {
      const a = yield* subscribe(yield* driver, { credit: 1 })
      yield* publish(message("1"), message("2"), message("3"), message("4"))
      const first = yield* takeOne(a)
      const waiting = yield* Effect.forkChild(take(a), { startImmediately: true })
      yield* TestClock.adjust(1)
      assert.isUndefined(waiting.pollUnsafe())
      yield* a.settle([{ _tag: "Acknowledge", delivery: first }])
      assert.deepStrictEqual(yield* Fiber.join(waiting), ["2"])
      yield* a.setCredit(3)
      assert.deepStrictEqual(yield* take(a), ["3", "4"])
      yield* a.setCredit(0)
      yield* publish(message("5"))
      yield* nothing(take(a))
    })
  )

  test(
    "the backlog tells what waits, what is held and how old it is; groups can be listed and removed",
    Effect.gen(function* () {
      const broker = yield* driver
      const group = { topic: "t", group: "g" }
      yield* broker.declare({ topic: "t", groups: ["g", "h"] })
      yield* broker.declare({ topic: "t", groups: ["g"] })
      assert.deepStrictEqual(yield* broker.groups("t"), ["g", "h"])
      assert.deepStrictEqual(yield* broker.backlog(group), { waiting: 0, delayed: 0, inFlight: 0, oldest: undefined })
      yield* publish(message("1"), message("2", { delay: 60_000 }))
      yield* TestClock.adjust(500)
      const a = yield* subscribe(broker)
      const held = yield* takeOne(a)
      assert.deepStrictEqual(yield* broker.backlog(group), { waiting: 1, delayed: 1, inFlight: 1, oldest: 500 })
      const lost = yield* Effect.forkChild(Stream.runHead(a.lost), { startImmediately: true })
      yield* broker.removeGroup(group)
      yield* broker.removeGroup({ topic: "nobody", group: "knows" })
      assert.deepStrictEqual(yield* broker.groups("t"), ["h"])
      assert.deepInclude(yield* Fiber.join(lost), { value: [held] })
      assert.deepStrictEqual(yield* a.settle([{ _tag: "Acknowledge", delivery: held }]), ["Lost"])
      assert.deepInclude(yield* Effect.flip(a.take(1, 1)), { _tag: "BrokerError", operation: "take" })
    })
  )
})

describe("settling", () => {
  test(
    "a release comes back as it was, a retry with its envelope after its delay, both counted, to this group only",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker)
      const other = yield* subscribe(broker, { group: "other" })
      yield* publish(message("1"))
      const first = yield* takeOne(a)
      assert.strictEqual(first.deliveries, 1)
      yield* a.settle([{ _tag: "Release", delivery: first }])
      const second = yield* takeOne(a)
      assert.deepStrictEqual([second.message, second.deliveries], [first.message, 2])
      yield* a.settle([{ _tag: "Retry", delivery: second, delay: 1_000, envelope: envelope("1", { attempt: 2 }) }])
      const waiting = yield* Effect.forkChild(takeOne(a), { startImmediately: true })
      yield* TestClock.adjust(999)
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust(1)
      const third = yield* Fiber.join(waiting)
      assert.deepStrictEqual([third.message.envelope.attempt, third.deliveries], [2, 3])
      assert.deepStrictEqual(third.message.body, first.message.body)
      assert.strictEqual((yield* takeOne(other)).message.envelope.attempt, 1)
      yield* nothing(take(other))
    })
  )

  test(
    "settling again says Settled, settling what is not ours says Lost",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker)
      const b = yield* subscribe(broker)
      yield* publish(message("1"))
      const delivery = yield* takeOne(a)
      assert.deepStrictEqual(yield* b.settle([{ _tag: "Acknowledge", delivery }]), ["Lost"])
      yield* a.settle([{ _tag: "Release", delivery }])
      assert.deepStrictEqual(yield* a.settle([{ _tag: "Acknowledge", delivery }]), ["Settled"])
      assert.deepStrictEqual(yield* take(b), ["1"])
    })
  )

  test(
    "closing a subscription gives back what it holds, ends `lost`, and settles nothing any more",
    Effect.gen(function* () {
      const broker = yield* driver
      const scope = yield* Scope.make()
      const a = yield* Scope.provide(subscribe(broker), scope)
      const b = yield* subscribe(broker)
      yield* publish(message("1"))
      const delivery = yield* takeOne(a)
      const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
      const lost = yield* Effect.forkChild(Stream.runCollect(a.lost), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(waiting), ["1"])
      assert.deepStrictEqual(yield* Fiber.join(lost), [])
      assert.deepStrictEqual(yield* a.settle([{ _tag: "Acknowledge", delivery }]), ["Lost"])
      assert.deepStrictEqual(yield* a.renew([delivery]), ["Lost"])
      assert.strictEqual((yield* Effect.flip(a.take(1, 1)))._tag, "BrokerError")
    })
  )

  test(
    "what was abandoned stays away until its lease has ended, also when the subscription is closed",
    Effect.gen(function* () {
      const broker = yield* driver
      const scope = yield* Scope.make()
      const a = yield* Scope.provide(subscribe(broker, { lease: 1_000, order: "key" }), scope)
      const b = yield* subscribe(broker, { order: "key" })
      yield* publish(message("1", { key: "k" }), message("2", { key: "k" }), message("3"))
      const [first, ...rest] = yield* a.take(10, 1_000)
      if (first === undefined) return assert.fail("three were published")
      assert.strictEqual(rest.length, 2)
      assert.deepStrictEqual(yield* a.settle([{ _tag: "Abandon", delivery: first }]), ["Settled"])
      assert.deepStrictEqual(yield* a.renew([first]), ["Lost"])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* take(b), ["3"])
      const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
      yield* TestClock.adjust(999)
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(waiting), ["1", "2"])
    })
  )

  it.effect("an interrupted take loses nothing", () =>
    Effect.gen(function* () {
      const store = Memory.makeStore()
      const broker = yield* Effect.provide(driver, Memory.layer({ store }))
      let sent = 0
      const points = yield* everyInterruptionPoint(
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const subscription = yield* Scope.provide(subscribe(broker), scope)
          yield* broker.publish([message(String(++sent))])
          return { subscription, scope, received: [] as Array<string> }
        }),
        ({ received, subscription }) =>
          Effect.uninterruptible(
            Effect.map(subscription.take(1, 1), (deliveries) => received.push(...deliveries.map(idOf)))
          ),
        ({ received, scope, subscription }) =>
          Effect.gen(function* () {
            if (received.length === 0) received.push(...(yield* take(subscription)))
            assert.deepStrictEqual(received, [String(sent)])
            yield* Scope.close(scope, Exit.void)
            yield* Effect.scoped(
              Effect.gen(function* () {
                const next = yield* subscribe(broker)
                yield* next.settle([{ _tag: "Acknowledge", delivery: yield* takeOne(next) }])
              })
            )
          })
      )
      assert.isAbove(points, 2)
    })
  )
})

describe("order", () => {
  const keyed = (id: string, key: string) => message(id, { key })

  test(
    "a key is with one subscription at a time, which may hold several of it; others go on",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker, { order: "key" })
      const b = yield* subscribe(broker, { order: "key" })
      yield* publish(keyed("x1", "x"), keyed("x2", "x"), keyed("y1", "y"), keyed("x3", "x"), message("none"))
      const [x1, x2] = yield* a.take(2, 1_000)
      if (x1 === undefined || x2 === undefined) return assert.fail("two were published")
      assert.deepStrictEqual([idOf(x1), idOf(x2)], ["x1", "x2"])
      assert.deepStrictEqual(yield* take(b), ["y1", "none"])
      const waiting = yield* Effect.forkChild(take(b), { startImmediately: true })
      yield* a.settle([{ _tag: "Acknowledge", delivery: x1 }])
      yield* TestClock.adjust(1)
      assert.isUndefined(waiting.pollUnsafe(), "a still holds x2")
      yield* a.settle([{ _tag: "Acknowledge", delivery: x2 }])
      assert.deepStrictEqual(yield* Fiber.join(waiting), ["x3"])
    })
  )

  test(
    "what was given back comes before the later ones of its key, also with a delay",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker, { order: "key" })
      const b = yield* subscribe(broker, { order: "key" })
      yield* publish(keyed("x1", "x"), keyed("x2", "x"), keyed("x3", "x"))
      const [x1, x2] = yield* a.take(2, 1_000)
      if (x1 === undefined || x2 === undefined) return assert.fail("two were published")
      yield* a.settle([{ _tag: "Retry", delivery: x1, delay: 1_000, envelope: x1.message.envelope }])
      yield* nothing(take(a))
      yield* a.settle([{ _tag: "Release", delivery: x2 }])
      yield* nothing(take(b))
      yield* TestClock.adjust(1_000)
      assert.deepStrictEqual(yield* take(b), ["x1", "x2", "x3"])
    })
  )

  test(
    "priority does not count there, and does elsewhere",
    Effect.gen(function* () {
      const broker = yield* driver
      const ordered = yield* subscribe(broker, { group: "ordered", order: "key" })
      const free = yield* subscribe(broker, { group: "free" })
      const priorities = [0, 5, -1, 5]
      yield* publish(...priorities.map((priority, index) => message(String(index), { key: "x", priority })))
      assert.deepStrictEqual(yield* take(ordered), ["0", "1", "2", "3"])
      assert.deepStrictEqual([yield* take(free, 1), yield* take(free)], [["1"], ["3", "0", "2"]])
    })
  )
})

describe("time", () => {
  test(
    "a delayed message comes at its time and not before",
    Effect.gen(function* () {
      const a = yield* subscribe(yield* driver)
      yield* publish(message("late", { delay: 2_000 }), message("early", { delay: 1_000 }), message("now"))
      assert.deepStrictEqual(yield* take(a), ["now"])
      const waiting = yield* Effect.forkChild(Effect.all([take(a), take(a)]), { startImmediately: true })
      yield* TestClock.adjust(1_999)
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(waiting), [["early"], ["late"]])
    })
  )

  test(
    "a lease that is renewed holds; one that is not is lost, and another gets the message",
    Effect.gen(function* () {
      const broker = yield* driver
      const a = yield* subscribe(broker, { lease: 1_000 })
      yield* publish(message("1"))
      const first = yield* takeOne(a)
      assert.strictEqual(first.leaseEndsAt, 1_000)
      yield* TestClock.adjust(900)
      assert.deepStrictEqual(yield* a.renew([first]), [1_900])
      const b = yield* subscribe(broker)
      const waiting = yield* Effect.forkChild(takeOne(b), { startImmediately: true })
      const lost = yield* Effect.forkChild(Stream.runHead(a.lost), { startImmediately: true })
      yield* TestClock.adjust(999)
      assert.isUndefined(waiting.pollUnsafe())
      yield* TestClock.adjust(1)
      const second = yield* Fiber.join(waiting)
      assert.deepStrictEqual([idOf(second), second.deliveries], ["1", 2])
      assert.deepInclude(yield* Fiber.join(lost), { value: [first] })
      assert.deepStrictEqual(yield* a.renew([first]), ["Lost"])
      assert.deepStrictEqual(yield* a.settle([{ _tag: "Acknowledge", delivery: first }]), ["Lost"])
      assert.deepStrictEqual(yield* b.settle([{ _tag: "Acknowledge", delivery: second }]), ["Settled"])
    })
  )
})

describe("topics", () => {
  test(
    "what was published before anybody subscribed belongs to the first who does",
    Effect.gen(function* () {
      const broker = yield* driver
      yield* publish(message("1"))
      yield* broker.declare({ topic: "t", groups: ["a", "b"] })
      const later = yield* subscribe(broker, { group: "later" })
      yield* publish(message("2"))
      for (const group of ["a", "b"]) {
        assert.deepStrictEqual(yield* take(yield* subscribe(broker, { group })), ["1", "2"])
      }
      assert.deepStrictEqual(yield* take(later), ["2"])
    })
  )

  test(
    "a new group begins with what comes, with everything, or at a time; an old one where it was",
    Effect.gen(function* () {
      const broker = yield* driver
      const first = yield* subscribe(broker, { group: "first" })
      yield* publish(message("1", { timestamp: 10 }), message("2", { timestamp: 20 }))
      assert.deepStrictEqual(yield* take(first), ["1", "2"])
      const now = yield* subscribe(broker, { group: "now" })
      const all = yield* subscribe(broker, { group: "all", replay: "earliest" })
      const since = yield* subscribe(broker, { group: "since", replay: new Date(20) })
      yield* publish(message("3", { timestamp: 30 }))
      assert.deepStrictEqual(
        [yield* take(now), yield* take(all), yield* take(since)],
        [["3"], ["1", "2", "3"], ["2", "3"]]
      )
      const again = yield* subscribe(broker, { group: "now", replay: "earliest" })
      yield* nothing(take(again))
    })
  )

  test(
    "a topic without a group keeps what it retains, and then refuses; with one the oldest are forgotten",
    Effect.gen(function* () {
      const broker = yield* driver
      const [, , full] = yield* publish(message("1"), message("2"), message("3"))
      if (full?._tag !== "Failed") return assert.fail("it was accepted and forgotten")
      assert.deepInclude(full.error.reason, { _tag: "Rejected", code: "Full" })
      assert.deepStrictEqual(full.error.ids, ["3"])
      const all = yield* subscribe(broker, { replay: "earliest" })
      yield* publish(message("3"))
      assert.deepStrictEqual(yield* take(all), ["1", "2", "3"])
      const late = yield* subscribe(broker, { group: "late", replay: "earliest" })
      assert.deepStrictEqual(yield* take(late), ["2", "3"])
    }),
    { retain: 2 }
  )

  test(
    "a duplicate is kept once within the window, and a message for one group always",
    Effect.gen(function* () {
      const broker = yield* driver
      assert.isFalse(broker.dedupe === "none")
      const a = yield* subscribe(broker)
      const [first, second] = yield* publish(message("1"), message("1"))
      assert.deepStrictEqual([first?._tag, second?._tag], ["Confirmed", "Duplicate"])
      yield* publish(message("1", { destination: { _tag: "Group", topic: "t", group: "g" } }))
      yield* TestClock.adjust("1 minute")
      yield* publish(message("1"))
      assert.deepStrictEqual(yield* take(a), ["1", "1", "1"])
    }),
    { dedupe: "1 minute" }
  )

  test(
    "too large a payload and a group that nobody has are refused, and the rest of the batch is not",
    Effect.gen(function* () {
      const a = yield* subscribe(yield* driver)
      const answers = yield* publish(
        message("1"),
        message("large"),
        message("2", { destination: { _tag: "Group", topic: "t", group: "nobody" } }),
        message("3")
      )
      assert.deepStrictEqual(
        answers
          .map((answer) => (answer._tag === "Failed" ? answer.error.reason : answer._tag))
          .map((answer) =>
            typeof answer === "string" ? answer : answer._tag === "Rejected" ? answer.code : answer._tag
          ),
        ["Confirmed", "TooLarge", "NoGroup", "Confirmed"]
      )
      assert.deepStrictEqual(yield* take(a), ["1", "3"])
    }),
    { maxMessageBytes: 4 }
  )

  it.effect("layers with one store are one broker; without, each is its own", () =>
    Effect.gen(function* () {
      const store = Memory.makeStore()
      yield* Effect.provide(publish(message("1")), Memory.layer({ store }))
      const later = Effect.flatMap(driver, (broker) => subscribe(broker, { replay: "earliest" }))
      const again = yield* Effect.provide(later, Memory.layer({ store }))
      assert.deepStrictEqual(yield* take(again), ["1"])
      const other = yield* Effect.provide(later, Memory.layer())
      yield* nothing(take(other))
    })
  )
})

describe("dead letters", () => {
  const group = { topic: "t", group: "g" }
  const dead = (id: string, to = "g") => message(id, { destination: { _tag: "DeadLetters", topic: "t", group: to } })

  test(
    "stay with their group in the order in which they came, and can be removed",
    Effect.gen(function* () {
      const broker = yield* driver
      const letters = broker.deadLetters
      if (letters === undefined) return assert.fail("it can browse")
      const a = yield* subscribe(broker)
      yield* publish(dead("1"), dead("2"), dead("3"), dead("other", "h"))
      yield* nothing(take(a))
      const all = yield* Stream.runCollect(letters.read(group))
      assert.deepStrictEqual(
        all.map((letter) => letter.message.envelope.id),
        ["1", "2", "3"]
      )
      const rest = yield* Stream.runCollect(letters.read(group, all[0]?.position))
      assert.deepStrictEqual(rest, all.slice(1))
      assert.deepStrictEqual(yield* letters.groups("t"), ["g", "h"])
      assert.strictEqual(yield* letters.remove(group, [...all.map(({ position }) => position), "nonsense"]), 3)
      assert.strictEqual(yield* letters.remove(group, ["1"]), 0)
      assert.deepStrictEqual(yield* letters.groups("t"), ["h"])
      yield* broker.removeGroup({ topic: "t", group: "h" })
      assert.deepStrictEqual(yield* letters.groups("t"), ["h"])
    })
  )

  test(
    "reading stops at what was there when it began",
    Effect.gen(function* () {
      const letters = (yield* driver).deadLetters
      yield* publish(dead("1"), dead("2"))
      const read = letters?.read(group).pipe(
        Stream.rechunk(1),
        Stream.tap(() => publish(dead("more"))),
        Stream.runCount
      )
      assert.strictEqual(yield* read ?? Effect.succeed(-1), 2)
    })
  )

  test(
    "moving publishes and removes in one step, and not twice; where it cannot be published it stays",
    Effect.gen(function* () {
      const broker = yield* driver
      const letters = broker.deadLetters
      if (letters?.move === undefined) return assert.fail("it can move")
      yield* publish(dead("1"))
      const [letter] = yield* Stream.runCollect(letters.read(group))
      if (letter === undefined) return assert.fail("there is one")
      const back = message("1", { destination: { _tag: "Group", ...group } })
      assert.strictEqual((yield* letters.move(group, letter.position, back))._tag, "Failed")
      assert.strictEqual(yield* Stream.runCount(letters.read(group)), 1)
      const a = yield* subscribe(broker)
      assert.strictEqual((yield* letters.move(group, letter.position, back))._tag, "Confirmed")
      assert.strictEqual((yield* letters.move(group, letter.position, back))._tag, "Gone")
      assert.deepStrictEqual(yield* take(a), ["1"])
      yield* nothing(take(a))
    })
  )
})
