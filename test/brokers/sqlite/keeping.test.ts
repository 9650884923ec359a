/** What is kept beside the backlog: ids, logs for new groups, dead letters; and how it goes away. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import type { Group } from "../../../src/messaging/Driver.ts"
import type { Opened } from "./support.ts"
import { acknowledge, consume, drain, filename, message, open, subscribe, take, textOf } from "./support.ts"

const settle = Effect.promise(async () => {
  for (let i = 0; i < 50; i++) await new Promise<void>((resume) => setImmediate(resume))
})

const count = ({ sql }: Opened, table: string) =>
  Effect.map(sql<{ n: number }>`SELECT count(*) AS n FROM ${sql(table)}`, (rows) => rows[0]?.n)

describe("dedupe", () => {
  it.live("a message published twice under one id is kept once, also across restarts, groups and topics apart", () =>
    Effect.gen(function* () {
      const path = yield* filename
      const a = message("t", "a", { envelope: { id: "one" } })
      const other = message("u", "b", { envelope: { id: "one" } })
      yield* Effect.scoped(
        Effect.gen(function* () {
          const { driver } = yield* open({ filename: path, dedupeWindow: "1 minute" })
          assert.notStrictEqual(driver.dedupe, "none")
          assert.deepStrictEqual(yield* driver.publish([a, a, other]), [
            { _tag: "Confirmed" },
            { _tag: "Duplicate" },
            { _tag: "Confirmed" }
          ])
        })
      )
      const { driver } = yield* open({ filename: path, dedupeWindow: "1 minute" })
      assert.deepStrictEqual(yield* driver.publish([a]), [{ _tag: "Duplicate" }])
      const subscription = yield* subscribe(driver)
      assert.strictEqual((yield* take(subscription)).length, 1)
      // What is sent to one group, or set aside, is meant.
      const destination = { _tag: "Group", topic: "t", group: "g" } as const
      assert.deepStrictEqual(yield* driver.publish([{ ...a, destination }]), [{ _tag: "Confirmed" }])
      const dead = { ...destination, _tag: "DeadLetters" } as const
      assert.deepStrictEqual(
        yield* driver.publish([
          { ...a, destination: dead },
          { ...a, destination: dead }
        ]),
        [{ _tag: "Confirmed" }, { _tag: "Confirmed" }]
      )
    })
  )

  it.effect("ids are forgotten after the window, and deleted", () =>
    Effect.gen(function* () {
      const opened = yield* open({ dedupeWindow: "1 minute" })
      const { driver } = opened
      const a = message("t", "a", { envelope: { id: "one" } })
      // Not at the beginning of anything.
      yield* TestClock.adjust("30 seconds")
      yield* driver.publish([a])
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(yield* driver.publish([a]), [{ _tag: "Duplicate" }])
      yield* TestClock.adjust("3 minutes")
      yield* settle
      assert.strictEqual(yield* count(opened, "millrace_seen"), 0)
      assert.deepStrictEqual(yield* driver.publish([a]), [{ _tag: "Confirmed" }])
    })
  )

  it.live("nothing is remembered without a window", () =>
    Effect.gen(function* () {
      const opened = yield* open()
      assert.strictEqual(opened.driver.dedupe, "none")
      const a = message("t", "a")
      assert.deepStrictEqual(yield* opened.driver.publish([a, a]), [{ _tag: "Confirmed" }, { _tag: "Confirmed" }])
      assert.strictEqual(yield* count(opened, "millrace_seen"), 0)
    })
  )
})

/** Whether what is kept as the size of each queue is what is there. */
const sizesAreTrue = ({ sql }: Opened) =>
  Effect.gen(function* () {
    const rows = yield* sql`SELECT id, size, (SELECT count(*) FROM millrace_message WHERE queue = q.id) AS counted
      FROM millrace_queue q`
    for (const row of rows) assert.strictEqual(row.size, row.counted)
  })

describe("replay", () => {
  const publish = ({ driver }: Opened, from: number, to: number) =>
    driver.publish(
      Array.from({ length: to - from }, (_, i) => message("t", String(from + i), { envelope: { timestamp: from + i } }))
    )

  const texts = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => String(from + i))

  it.live("a new group reads what the log has, then what comes, in order", () =>
    Effect.gen(function* () {
      const opened = yield* open({ retention: { t: "1 hour" } })
      const { driver } = opened
      const first = yield* subscribe(driver, { group: "first" })
      yield* publish(opened, 0, 1_200)
      yield* consume(first, 1_200)
      const earliest = yield* subscribe(driver, { group: "earliest", replay: "earliest" })
      const since = yield* subscribe(driver, { group: "since", replay: new Date(1_100) })
      const now = yield* subscribe(driver, { group: "now" })
      assert.strictEqual((yield* driver.backlog({ topic: "t", group: "earliest" })).waiting, 1_200)
      yield* publish(opened, 1_200, 1_300)
      yield* sizesAreTrue(opened)
      assert.deepStrictEqual((yield* consume(earliest, 1_300)).map(textOf), texts(0, 1_300))
      assert.deepStrictEqual((yield* consume(since, 200)).map(textOf), texts(1_100, 1_300))
      assert.deepStrictEqual((yield* consume(now, 100)).map(textOf), texts(1_200, 1_300))
      // It is no new group any more.
      const again = yield* subscribe(driver, { group: "earliest", replay: "earliest" })
      assert.deepStrictEqual(yield* drain(again), [])
    })
  )

  it.live(
    "a group that begins at a time begins with the first message of that time, whatever others say of theirs",
    () =>
      Effect.gen(function* () {
        const { driver } = yield* open({ retention: { t: "1 hour" } })
        yield* driver.publish(
          [1, 5, 2, 7, 3].map((timestamp) => message("t", String(timestamp), { envelope: { timestamp } }))
        )
        const since = yield* subscribe(driver, { group: "since", replay: new Date(5) })
        yield* driver.publish([message("t", "new")])
        assert.deepStrictEqual((yield* consume(since, 5)).map(textOf), ["5", "2", "7", "3", "new"])
        const future = yield* subscribe(driver, { group: "future", replay: new Date(8_000_000_000_000) })
        assert.deepStrictEqual(yield* drain(future), [])
      })
  )

  it.live("nothing new is handed out before the last of the old is there", () =>
    Effect.gen(function* () {
      const opened = yield* open({ retention: { t: "1 hour" } })
      yield* opened.driver.declare({ topic: "t", groups: ["first"] })
      yield* publish(opened, 0, 1_100)
      const late = yield* subscribe(opened.driver, { group: "late", replay: "earliest", credit: 5_000 })
      yield* publish(opened, 1_100, 1_200)
      assert.deepStrictEqual((yield* late.take(5_000, 10_000_000)).map(textOf), texts(0, 1_200))
    })
  )

  it.live("retention is the file's: others keep it too, until it is ended", () =>
    Effect.gen(function* () {
      const here = yield* open({ retention: { t: "1 hour" } })
      const there = yield* open({ filename: here.filename })
      yield* there.driver.declare({ topic: "t", groups: ["other"] })
      yield* publish(there, 0, 3)
      assert.strictEqual(yield* count(here, "millrace_log"), 3)
      yield* open({ filename: here.filename, retention: { t: "0 seconds" } })
      yield* publish(there, 3, 6)
      const late = yield* subscribe(here.driver, { group: "late", replay: "earliest" })
      assert.deepStrictEqual(yield* drain(late), [])
    })
  )

  it.live("without a log, the first group gets what the topic has kept, by its replay", () =>
    Effect.gen(function* () {
      const opened = yield* open()
      yield* publish(opened, 0, 10)
      const since = yield* subscribe(opened.driver, { group: "since", replay: new Date(7) })
      assert.deepStrictEqual((yield* consume(since, 3)).map(textOf), texts(7, 10))
      yield* publish(opened, 10, 12)
      // What was older is kept for who asks for it.
      const earliest = yield* subscribe(opened.driver, { group: "earliest", replay: "earliest" })
      assert.deepStrictEqual((yield* consume(earliest, 7)).map(textOf), texts(0, 7))
      assert.deepStrictEqual((yield* consume(since, 2)).map(textOf), texts(10, 12))
      yield* sizesAreTrue(opened)
    })
  )

  it.effect("the log is trimmed, but not before a new group has read it", () =>
    Effect.gen(function* () {
      const opened = yield* open({ retention: { t: "1 minute" } })
      yield* opened.driver.declare({ topic: "t", groups: ["first"] })
      yield* publish(opened, 0, 1_100)
      // It begins, and does not go on.
      const replaying = yield* subscribe(opened.driver, { group: "late", replay: "earliest" })
      yield* TestClock.adjust("5 minutes")
      yield* settle
      assert.strictEqual(yield* count(opened, "millrace_log"), 1_100)
      assert.deepStrictEqual((yield* consume(replaying, 1_100)).map(textOf), texts(0, 1_100))
      yield* TestClock.adjust("5 minutes")
      yield* settle
      assert.strictEqual(yield* count(opened, "millrace_log"), 0)
    })
  )
})

describe("groups", () => {
  it.live("a removed group is gone with its backlog, and its dead letters stay", () =>
    Effect.gen(function* () {
      const opened = yield* open()
      const { driver } = opened
      const group: Group = { topic: "t", group: "g" }
      yield* driver.declare({ topic: "t", groups: ["g", "other"] })
      const dead = { _tag: "DeadLetters", ...group } as const
      yield* driver.publish([
        ...Array.from({ length: 1_200 }, (_, i) => message("t", String(i))),
        message("t", "later", { delay: 60_000 }),
        message("t", "dead", { destination: dead })
      ])
      const held = yield* subscribe(driver, group)
      const taken = yield* take(held)
      yield* held.setCredit(0)
      yield* driver.removeGroup(group)
      yield* driver.removeGroup(group)
      yield* driver.removeGroup({ topic: "nowhere", group: "g" })
      assert.deepStrictEqual(yield* driver.groups("t"), ["other"])
      assert.deepStrictEqual(yield* acknowledge(held, taken.slice(0, 1)), ["Lost"])
      assert.strictEqual(yield* count(opened, "millrace_message"), 1_201)
      assert.strictEqual((yield* driver.backlog(group)).waiting, 0)
      assert.deepStrictEqual(yield* driver.deadLetters?.groups("t") ?? Effect.die("browse"), ["g"])
      const nobody = yield* driver.publish([message("t", "x", { destination: { _tag: "Group", ...group } })])
      assert.strictEqual(nobody[0]?._tag === "Failed" && nobody[0].error.reason._tag, "Rejected")
      assert.include(nobody[0]?._tag === "Failed" ? nobody[0].error.message : "", "NoGroup")
      // A consumer that is still there makes it anew.
      yield* driver.publish([message("t", "missed")])
      yield* held.setCredit(10)
      assert.deepStrictEqual(yield* drain(held), [])
      yield* driver.publish([message("t", "again")])
      assert.deepStrictEqual((yield* take(held)).map(textOf), ["again"])
      // Also one that waits.
      const waiting = yield* Effect.forkChild(take(held), { startImmediately: true })
      yield* Effect.sleep("10 millis")
      yield* driver.removeGroup(group)
      yield* Effect.sleep("10 millis")
      yield* driver.publish([message("t", "and again")])
      assert.deepStrictEqual((yield* Fiber.join(waiting)).map(textOf), ["and again"])
    })
  )
})

describe("dead letters", () => {
  const group: Group = { topic: "t", group: "g" }
  const destination = { _tag: "DeadLetters", ...group } as const

  it.live("are read in order, to the end of what was there", () =>
    Effect.gen(function* () {
      const { driver } = yield* open()
      const { deadLetters } = driver
      if (deadLetters === undefined) return assert.fail()
      const death = { reason: "exhausted", cause: "c", at: 1 } as const
      yield* driver.publish(
        Array.from({ length: 150 }, (_, i) => message("t", String(i), { destination, envelope: { death } }))
      )
      yield* driver.publish([message("t", "of another", { destination: { ...destination, group: "h" } })])
      let first = true
      const letters = yield* Stream.runCollect(
        Stream.tap(deadLetters.read(group), () => {
          if (!first) return Effect.void
          first = false
          return driver.publish([message("t", "too late", { destination })])
        })
      )
      assert.deepStrictEqual(
        letters.map(({ message }) => new TextDecoder().decode(message.body)),
        Array.from({ length: 150 }, (_, i) => String(i))
      )
      assert.deepStrictEqual(letters[0]?.message.envelope.death, death)
      const rest = yield* Stream.runCollect(deadLetters.read(group, letters[99]?.position))
      assert.strictEqual(rest.length, 51)
      assert.deepStrictEqual(yield* deadLetters.groups("t"), ["g", "h"])
      const positions = letters.map(({ position }) => position)
      assert.strictEqual(yield* deadLetters.remove(group, [...positions.slice(0, 10), "0", "nonsense", "-1"]), 10)
      assert.strictEqual(yield* deadLetters.remove({ topic: "t", group: "h" }, positions), 0)
      assert.deepStrictEqual(yield* Stream.runCollect(deadLetters.read({ topic: "t", group: "none" })), [])
    })
  )

  it.live("move to a group in one step, once", () =>
    Effect.gen(function* () {
      const { driver } = yield* open({ dedupeWindow: "1 minute", maxMessageBytes: 100 })
      const { deadLetters } = driver
      const subscription = yield* subscribe(driver)
      const letter = message("t", "x", { destination })
      yield* driver.publish([letter])
      const [stored] = yield* Stream.runCollect(deadLetters?.read(group) ?? Stream.empty)
      if (stored === undefined || deadLetters?.move === undefined) return assert.fail()
      const to = (name: string) => ({ ...letter, destination: { _tag: "Group", topic: "t", group: name } as const })
      const nowhere = yield* deadLetters.move(group, stored.position, to("nowhere"))
      assert.strictEqual(nowhere._tag, "Failed")
      const large = yield* deadLetters.move(group, stored.position, { ...to("g"), body: new Uint8Array(101) })
      assert.strictEqual(large._tag, "Failed")
      const answers = yield* Effect.all(
        [deadLetters.move(group, stored.position, to("g")), deadLetters.move(group, stored.position, to("g"))],
        { concurrency: 2 }
      )
      assert.deepStrictEqual(
        answers.map(({ _tag }) => _tag),
        ["Confirmed", "Gone"]
      )
      assert.strictEqual((yield* take(subscription)).length, 1)
      assert.strictEqual((yield* Stream.runCollect(deadLetters.read(group))).length, 0)
    })
  )
})
