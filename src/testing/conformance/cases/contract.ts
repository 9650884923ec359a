/** What the layers above rely on: the operations of a driver, one by one. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { Delivery, Settlement, Subscription } from "../../../messaging/Driver.ts"
import type { App, Env, Spec } from "../Harness.ts"
import { check, checkEqual, fail, needsCalm, outgoing, show } from "../Harness.ts"

const nothing = { sent: 0, duplicates: 0 }
const everything = Number.MAX_SAFE_INTEGER

export const idOf = ({ message }: Delivery): string => message.envelope.id
const idsOf = (deliveries: ReadonlyArray<Delivery>): ReadonlyArray<string> => deliveries.map(idOf)

/** Takes until it has so many; fails where they do not come in time. */
export const takeMany = (env: Env, subscription: Subscription, count: number, maxBytes = everything) =>
  Effect.gen(function* () {
    const deliveries: Array<Delivery> = []
    while (deliveries.length < count) {
      const take = subscription.take(count - deliveries.length, maxBytes)
      const some = yield* env.patiently(take, `a take, after ${deliveries.length} of ${count} messages,`)
      yield* check(some.length > 0, "take answered nothing")
      deliveries.push(...some)
    }
    return deliveries
  })

export const takeOne = (env: Env, subscription: Subscription) =>
  Effect.flatMap(takeMany(env, subscription, 1), ([delivery]) =>
    delivery === undefined ? fail("take answered nothing") : Effect.succeed(delivery)
  )

/** Takes until it has seen all of these; only deliveries that `counts` holds for have been seen. */
export const takeAll = (
  env: Env,
  subscription: Subscription,
  ids: ReadonlyArray<string>,
  counts: (delivery: Delivery) => boolean = () => true
) =>
  Effect.gen(function* () {
    const deliveries: Array<Delivery> = []
    const missing = () => ids.filter((id) => !deliveries.some((delivery) => idOf(delivery) === id && counts(delivery)))
    while (missing().length > 0) deliveries.push(...(yield* takeMany(env, subscription, missing().length)))
    return deliveries
  })

/** Takes everything that comes within a while after the last. */
export const takeRest = (env: Env, subscription: Subscription) =>
  Effect.gen(function* () {
    const deliveries: Array<Delivery> = []
    const patient = env.patiently(subscription.take(100, everything))
    for (;;) {
      const some = yield* Effect.timeoutOption(patient, quiet)
      if (some._tag === "None") return deliveries
      deliveries.push(...some.value)
    }
  })

/** How long nothing may come where nothing should; a driver that is slower than this to do wrong goes unseen. */
export const quiet = 150

export const settle = (env: Env, subscription: Subscription, ...settlements: ReadonlyArray<Settlement>) =>
  Effect.tap(env.patiently(subscription.settle(settlements)), (answers) =>
    checkEqual(answers.length, settlements.length, "the number of answers to settle")
  )

export const acknowledge = (env: Env, subscription: Subscription, deliveries: ReadonlyArray<Delivery>) =>
  Effect.flatMap(
    settle(env, subscription, ...deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery }) as const)),
    (answers) => check(!answers.includes("Lost"), () => `what was just taken is lost already: ${show(answers)}`)
  )

/** A topic with these groups and so many messages, `m0`, `m1`, and so on. */
const withMessages = (env: Env, app: App, count: number, ...groups: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const topic = env.name()
    yield* env.patiently(app.driver.declare({ topic, groups }))
    const ids = Array.from({ length: count }, (_, index) => `m${index}`)
    yield* app.send(ids.map((id) => outgoing(topic, id)))
    return { topic, ids }
  })

const declareAgain: Spec = {
  id: "declare-again",
  name: "declaring again, also at the same time, changes nothing",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.name()
      const declare = (groups: ReadonlyArray<string>) => env.patiently(app.driver.declare({ topic, groups }))
      yield* Effect.all([declare(["g"]), declare(["g"]), declare([])], { concurrency: "unbounded" })
      yield* app.send([outgoing(topic, "before")])
      yield* Effect.all([declare(["g"]), declare([])], { concurrency: "unbounded" })
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const delivery = yield* takeOne(env, subscription)
      yield* checkEqual(idOf(delivery), "before", "the message from between two declarations")
      yield* acknowledge(env, subscription, [delivery])
      return { ...nothing, sent: 1 }
    })
}

const credit: Spec = {
  id: "credit",
  needs: needsCalm,
  name: "no more is handed over than the credit allows; it can be changed, and comes back with each settlement",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { ids, topic } = yield* withMessages(env, app, 10, "g")
      const subscription = yield* app.subscribe({ topic, group: "g", credit: 3 })
      const first = yield* takeMany(env, subscription, 3)
      const waiting = yield* Effect.forkScoped(takeMany(env, subscription, 1))
      yield* Effect.sleep(quiet)
      yield* check(waiting.pollUnsafe() === undefined, "it handed over a fourth message with a credit of 3")
      yield* acknowledge(env, subscription, first.slice(0, 1))
      const second = yield* env.within("a take, after a settlement has given back credit,", Fiber.join(waiting))
      yield* env.patiently(subscription.setCredit(0))
      const none = yield* Effect.forkScoped(takeMany(env, subscription, 1))
      yield* acknowledge(env, subscription, [...first.slice(1), ...second])
      yield* Effect.sleep(quiet)
      yield* check(none.pollUnsafe() === undefined, "it handed over a message with a credit of 0")
      yield* env.patiently(subscription.setCredit(10))
      const third = yield* env.within("the take that had waited, after the credit was raised,", Fiber.join(none))
      const rest = yield* takeMany(env, subscription, 5)
      const all = [...first, ...second, ...third, ...rest]
      yield* checkEqual(idsOf(all).toSorted(), ids.toSorted(), "what was handed over")
      yield* acknowledge(env, subscription, [...third, ...rest])
      return { ...nothing, sent: 10 }
    })
}

const takeLimits: Spec = {
  id: "take-limits",
  name: "take answers at most max messages and maxBytes bytes, but always one",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const topic = env.name()
      yield* env.patiently(app.driver.declare({ topic, groups: ["g"] }))
      const body = new Uint8Array(1000)
      yield* app.send(Array.from({ length: 9 }, (_, index) => outgoing(topic, `m${index}`, { body })))
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const two = yield* env.patiently(subscription.take(2, everything))
      yield* check(two.length >= 1 && two.length <= 2, `take(2) answered ${two.length}`)
      const one = yield* env.patiently(subscription.take(9, 1))
      yield* checkEqual(one.length, 1, "the number of messages from a take with one byte of room")
      const some = yield* env.patiently(subscription.take(9, 2500))
      yield* check(some.length <= 2, `take answered ${some.length} messages of 1000 bytes with room for 2500`)
      return { ...nothing, sent: 9 }
    })
}

const settleTwice: Spec = {
  id: "settle-twice",
  name: "settling is answered one by one; settling again is no error and changes nothing",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 3, "g")
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const [a, b, c] = yield* takeMany(env, subscription, 3)
      if (a === undefined || b === undefined || c === undefined) return yield* fail("three were taken")
      const envelope = { ...c.message.envelope, attempt: 2 }
      const settlements: ReadonlyArray<Settlement> = [
        { _tag: "Acknowledge", delivery: a },
        { _tag: "Release", delivery: b },
        { _tag: "Retry", delivery: c, delay: 0, envelope }
      ]
      const answers = yield* settle(env, subscription, ...settlements)
      yield* check(!answers.includes("Lost"), () => `what was just taken is lost already: ${show(answers)}`)
      yield* settle(env, subscription, ...settlements)
      const again = yield* takeAll(env, subscription, [idOf(b), idOf(c)])
      // Where a message may have been sent twice, another one may come here too.
      if (env.calm) yield* checkEqual(idsOf(again).toSorted(), [idOf(b), idOf(c)].toSorted(), "what comes again")
      // The settlements of old deliveries do not reach the new ones.
      yield* settle(env, subscription, ...settlements)
      yield* acknowledge(env, subscription, again)
      const more = yield* takeRest(env, subscription)
      yield* check(!env.calm || more.length === 0, () => `these came although all was settled: ${show(idsOf(more))}`)
      return { sent: 3, duplicates: more.length }
    })
}

const settleInterrupted: Spec = {
  id: "settle-interrupted",
  name: "a settlement that was interrupted can be called again, and happens once",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 16, "g")
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const taken = yield* takeMany(env, subscription, 16)
      const retried: Array<string> = []
      for (let i = 0; i + 1 < taken.length; i += 2) {
        const [done, again] = taken.slice(i, i + 2)
        if (done === undefined || again === undefined) return yield* fail("16 were taken")
        retried.push(idOf(again))
        const envelope = { ...again.message.envelope, attempt: 2 }
        const settlements: ReadonlyArray<Settlement> = [
          { _tag: "Acknowledge", delivery: done },
          { _tag: "Retry", delivery: again, delay: 0, envelope }
        ]
        const fiber = yield* Effect.forkChild(subscription.settle(settlements), { startImmediately: true })
        // Each time it has come a little further.
        for (let step = 0; step < i; step++) yield* Effect.yieldNow
        yield* env.within("the interruption of a settle", Fiber.interrupt(fiber))
        const answers = yield* settle(env, subscription, ...settlements)
        yield* check(!answers.includes("Lost"), () => `after an interruption it was answered ${show(answers)}`)
      }
      const isRetry = ({ message }: Delivery) => message.envelope.attempt === 2
      const back = yield* takeAll(env, subscription, retried, isRetry)
      // A message that was published twice comes once more as it was.
      yield* check(!env.calm || back.every(isRetry), "a retry came back without its envelope")
      yield* acknowledge(env, subscription, back)
      const more = yield* takeRest(env, subscription)
      const duplicates = back.length - retried.length + more.length
      yield* check(!env.calm || duplicates === 0, () => `these came twice: ${show(idsOf([...back, ...more]))}`)
      return { sent: 16, duplicates }
    })
}

const release: Spec = {
  id: "release",
  name: "a released message comes again as it was, to this group only",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 1, "g", "other")
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const other = yield* app.subscribe({ topic, group: "other" })
      const first = yield* takeOne(env, subscription)
      yield* settle(env, subscription, { _tag: "Release", delivery: first })
      const second = yield* takeOne(env, subscription)
      yield* checkEqual(second.message, first.message, "the message that was released")
      yield* acknowledge(env, subscription, [second])
      yield* acknowledge(env, other, [yield* takeOne(env, other)])
      const more = yield* takeRest(env, other)
      yield* check(!env.calm || more.length === 0, "the release reached another group")
      return { sent: 1, duplicates: more.length }
    })
}

const retryOneGroup: Spec = {
  id: "retry-one-group",
  needs: needsCalm,
  name: "a retried message comes again with its new envelope, to this group only",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 1, "g", "other")
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const first = yield* takeOne(env, subscription)
      const attempt = { attempt: 1, at: 1_700_000_000_000, tag: "Böse", message: 'it "fails"\n', host: "h:1" }
      const envelope = { ...first.message.envelope, attempt: 2, history: { firstFailedAt: 5, attempts: [attempt] } }
      yield* settle(env, subscription, { _tag: "Retry", delivery: first, delay: 50, envelope })
      const second = yield* takeOne(env, subscription)
      yield* checkEqual(second.message, { envelope, body: first.message.body }, "the message that was retried")
      yield* acknowledge(env, subscription, [second])
      const other = yield* app.subscribe({ topic, group: "other" })
      const theirs = yield* takeOne(env, other)
      yield* checkEqual(theirs.message.envelope.attempt, 1, "the attempt at another group")
      yield* acknowledge(env, other, [theirs])
      const more = [...(yield* takeRest(env, other)), ...(yield* takeRest(env, subscription))]
      yield* check(
        !env.calm || more.length === 0,
        () => `the retry multiplied: ${show(more.map(({ message }) => message.envelope))}`
      )
      return { sent: 1, duplicates: more.length }
    })
}

const closeGivesBack: Spec = {
  id: "close-gives-back",
  name: "closing a subscription gives back what it holds",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { ids, topic } = yield* withMessages(env, app, 6, "g")
      const scope = yield* Scope.make()
      const subscription = yield* Scope.provide(app.subscribe({ topic, group: "g" }), scope)
      const delivery = yield* takeOne(env, subscription)
      yield* takeMany(env, subscription, 2)
      yield* Scope.close(scope, Exit.void)
      const late = yield* Effect.exit(subscription.settle([{ _tag: "Acknowledge", delivery }]))
      yield* check(
        Exit.isFailure(late) || late.value[0] !== "Settled",
        "it says that it settled a message after its subscription was closed"
      )
      const next = yield* app.subscribe({ topic, group: "g" })
      yield* acknowledge(env, next, yield* takeAll(env, next, ids))
      return { sent: 6, duplicates: 0 }
    })
}

const interruptedTake: Spec = {
  id: "interrupted-take",
  name: "an interrupted take loses nothing",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 0, "g")
      const count = env.count(300, 30)
      const got = new Set<string>()
      const acknowledgeAndNote = (subscription: Subscription, some: ReadonlyArray<Delivery>) =>
        Effect.andThen(
          acknowledge(env, subscription, some),
          Effect.sync(() => {
            for (const id of idsOf(some)) got.add(id)
          })
        )
      yield* Effect.scoped(
        Effect.gen(function* () {
          const subscription = yield* app.subscribe({ topic, group: "g", credit: 5 })
          for (let index = 0; index < count; index++) {
            const taking = yield* Effect.forkChild(
              Effect.uninterruptibleMask((restore) =>
                Effect.flatMap(restore(subscription.take(3, everything)), (some) =>
                  acknowledgeAndNote(subscription, some)
                )
              ),
              { startImmediately: true }
            )
            yield* app.send([outgoing(topic, `m${index}`)])
            if (index % 3 === 0) yield* Effect.sleep(index % 2)
            yield* Fiber.interrupt(taking)
          }
        })
      )
      const rest = yield* app.subscribe({ topic, group: "g" })
      while (got.size < count) {
        yield* acknowledgeAndNote(rest, yield* takeMany(env, rest, 1))
      }
      return { sent: count, duplicates: 0 }
    })
}

const backlog: Spec = {
  id: "backlog",
  needs: needsCalm,
  name: "the backlog is exact, or unknown; never a guess",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 0, "g")
      const timestamp = yield* Clock.currentTimeMillis
      yield* app.send([1, 2, 3, 4, 5].map((n) => outgoing(topic, `m${n}`, { envelope: { timestamp } })))
      const group = { topic, group: "g" }
      let last: unknown
      const shows = (what: string, waiting: number, inFlight: number) =>
        env.untilEffect(
          `the backlog ${what} is ${waiting} waiting and ${inFlight} in flight, as far as it is known`,
          Effect.map(env.patiently(app.driver.backlog(group)), (backlog) => {
            last = backlog
            return (backlog.waiting ?? waiting) === waiting && (backlog.inFlight ?? inFlight) === inFlight
          }),
          () => `It is ${show(last)}.`
        )
      yield* shows("of five messages", 5, 0)
      const subscription = yield* app.subscribe({ topic, group: "g", credit: 2 })
      const two = yield* takeMany(env, subscription, 2)
      yield* shows("when two are held", 3, 2)
      yield* env.patiently(subscription.setCredit(0))
      yield* acknowledge(env, subscription, two)
      yield* shows("when these are settled", 3, 0)
      const { oldest } = yield* env.patiently(app.driver.backlog(group))
      yield* check(oldest === undefined || (oldest >= 0 && oldest < 600_000), `the oldest waits for ${oldest} ms`)
      return { sent: 5, duplicates: 0 }
    })
}

const groups: Spec = {
  id: "list-groups",
  name: "groups are listed, and removed with what waits for them",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 2, "keep", "remove")
      const listed = env.patiently(app.driver.groups(topic))
      if ((yield* listed) !== undefined) {
        yield* env.untilEffect(
          "both groups are listed",
          Effect.map(listed, (names) => ["keep", "remove"].every((name) => names?.includes(name)))
        )
      }
      yield* env.patiently(app.driver.removeGroup({ topic, group: "remove" }))
      yield* env.patiently(app.driver.removeGroup({ topic, group: "nobody" }))
      if ((yield* listed) !== undefined) {
        yield* env.untilEffect(
          "the removed group is not listed",
          Effect.map(listed, (names) => names?.includes("remove") === false)
        )
      }
      const kept = yield* app.subscribe({ topic, group: "keep" })
      yield* acknowledge(env, kept, yield* takeMany(env, kept, 2))
      const anew = yield* app.subscribe({ topic, group: "remove" })
      yield* app.send([outgoing(topic, "new")])
      const delivery = yield* takeOne(env, anew)
      yield* checkEqual(idOf(delivery), "new", "the first message of a group that was removed and begins anew")
      yield* acknowledge(env, anew, [delivery])
      return { sent: 3, duplicates: 0 }
    })
}

const dedupe: Spec = {
  id: "dedupe",
  name: "a message that is published twice under one id is kept once where the driver says so, and else comes twice",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 0, "g")
      const subscription = yield* app.subscribe({ topic, group: "g" })
      const twice = [outgoing(topic, "same"), outgoing(topic, "same")]
      const answers = yield* env.patiently(app.driver.publish(twice))
      const later = yield* env.patiently(app.driver.publish(twice.slice(0, 1)))
      const first = yield* takeRest(env, subscription)
      yield* acknowledge(env, subscription, first)
      if (app.driver.dedupe === "none") {
        yield* check(
          [...answers, ...later].every(({ _tag }) => _tag !== "Duplicate"),
          "it answers Duplicate, although its dedupe is none"
        )
        yield* check(
          first.length >= 3 || !env.calm,
          `of three messages of one id ${first.length} came, although dedupe is none`
        )
      } else if (env.calm) {
        yield* checkEqual(
          [...answers, ...later].map(({ _tag }) => _tag),
          ["Confirmed", "Duplicate", "Duplicate"],
          "the answers to three messages of one id"
        )
        yield* checkEqual(first.length, 1, "the deliveries of three messages of one id")
        // A replayed dead letter has the id of its message.
        yield* app.send([{ ...outgoing(topic, "same"), destination: { _tag: "Group", topic, group: "g" } }])
        yield* acknowledge(env, subscription, [yield* takeOne(env, subscription)])
      }
      return { ...nothing, sent: 3 }
    })
}

const destinations: Spec = {
  id: "destinations",
  name: "a message for one group reaches no other, and a dead letter reaches none",
  run: (env) =>
    Effect.gen(function* () {
      const app = yield* env.connect
      const { topic } = yield* withMessages(env, app, 0, "a", "b")
      const [a, b] = [yield* app.subscribe({ topic, group: "a" }), yield* app.subscribe({ topic, group: "b" })]
      yield* app.send([
        outgoing(topic, "dead", { destination: { _tag: "DeadLetters", topic, group: "a" } }),
        outgoing(topic, "for a", { destination: { _tag: "Group", topic, group: "a" } }),
        outgoing(topic, "for all")
      ])
      const atA = yield* takeRest(env, a)
      const atB = yield* takeRest(env, b)
      yield* checkEqual([...new Set(idsOf(atA))].toSorted(), ["for a", "for all"], "what came to group a")
      yield* checkEqual([...new Set(idsOf(atB))], ["for all"], "what came to group b")
      yield* acknowledge(env, a, atA)
      yield* acknowledge(env, b, atB)
      return { sent: 3, duplicates: atA.length + atB.length - 3 }
    })
}

export const contract: ReadonlyArray<Spec> = [
  declareAgain,
  credit,
  takeLimits,
  settleTwice,
  settleInterrupted,
  release,
  retryOneGroup,
  closeGivesBack,
  interruptedTake,
  backlog,
  groups,
  dedupe,
  destinations
]
