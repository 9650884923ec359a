/** Leases: kept while a handler runs, and noticed when they are lost. */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Consumer from "../../../messaging/Consumer.ts"
import * as FaultyBroker from "../../FaultyBroker.ts"
import type { Fixture } from "../Fixture.ts"
import type { Spec } from "../Harness.ts"
import { check, checkEqual, Log, needsCalm, now, show } from "../Harness.ts"
import { acknowledge, idOf, settle, takeOne, takeRest } from "./contract.ts"

const needsLease = ({ lease }: Fixture): string | undefined =>
  lease === "none" ? "the broker has no leases" : undefined

const renewal: Spec = {
  id: "renewal",
  name: "18 the lease of a long handler is renewed: nobody else gets its message, and it is not interrupted",
  needs: needsLease,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const { lease } = env
      const log = new Log()
      let begun = 0
      const apps = yield* Effect.all([env.connect, env.connect])
      const handler: typeof log.note = (value, envelope) =>
        Effect.gen(function* () {
          begun++
          yield* Effect.sleep(value.key === "long" ? lease * 3 : 0)
          return yield* log.note(value, envelope)
        })
      const consumers = yield* Effect.forEach(apps, (app) =>
        app.consume(topic, handler, { group: "g", concurrency: 2, lease })
      )
      const id = yield* apps[0].publish(topic, { n: 0, key: "long" })
      const report = yield* env.all(log, [id])
      yield* check(
        !env.calm || begun === 1,
        `the message of a handler that takes three leases was begun ${begun} times`
      )
      const accountings = yield* Effect.forEach(consumers, ({ accounting }) => accounting)
      const lost = accountings.reduce((sum, { lost }) => sum + lost, 0)
      yield* check(!env.calm || lost === 0, `${lost} deliveries were lost`)
      return report
    })
}

const lostLease: Spec = {
  id: "lost-lease",
  name: "18 a lease that cannot be renewed is lost: the handler is interrupted with LeaseLost, and another gets the message",
  needs: needsLease,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const { lease } = env
      const faulty = FaultyBroker.make({ seed: topic.name, rates: { renew: { failBefore: 1 } } })
      const [bad, good] = [yield* env.connectBy(faulty.layer(env.fixture.layer)), yield* env.connect]
      const begun = yield* Deferred.make<void>()
      const ended = yield* Deferred.make<Exit.Exit<unknown, unknown>>()
      const consumer = yield* bad.consume(
        topic,
        () =>
          Deferred.succeed(begun, undefined).pipe(
            Effect.andThen(Effect.never),
            Effect.onExit((exit) => Deferred.succeed(ended, exit))
          ),
        { group: "g", lease, shutdownDeadline: 0 }
      )
      const id = yield* good.publish(topic, { n: 0, key: "k" })
      yield* env.within("the first handler", Deferred.await(begun))
      const exit = yield* env.within("the handler whose lease cannot be renewed", Deferred.await(ended))
      yield* check(
        Exit.isFailure(exit) && Consumer.isLeaseLost(exit.cause),
        () =>
          `the handler should be interrupted with LeaseLost, and ended with ${Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "success"}`
      )
      yield* env.untilEffect(
        "the loss is in the books",
        Effect.map(consumer.accounting, ({ lost }) => lost > 0)
      )
      // It may have got the same message again, and would lose it again.
      yield* consumer.drain({ deadline: 0 })
      const log = new Log()
      yield* good.consume(topic, log.note, { group: "g", lease })
      const report = yield* env.all(log, [id])
      yield* checkEqual(log.entries[0]?.attempt, 1, "the attempt of the one that gets it")
      return report
    })
}

const lateSettlement: Spec = {
  id: "late-settlement",
  name: "a settlement after the lease has ended does not take the message from the one that has it now",
  needs: (fixture) => needsLease(fixture) ?? needsCalm(fixture),
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const [late, next] = [yield* env.connect, yield* env.connect]
      yield* late.publish(topic, { n: 0, key: "k" })
      const options = { topic: topic.name, group: "g", lease: env.lease, credit: 1 }
      const subscription = yield* late.subscribe(options)
      const before = yield* now
      const delivery = yield* takeOne(env, subscription)
      // What comes back is for the other.
      yield* env.patiently(subscription.setCredit(0))
      const ends = delivery.leaseEndsAt
      yield* check(
        ends !== undefined && ends > before && ends <= (yield* now) + env.lease,
        `a lease of ${env.lease} ms taken at ${before} ends at ${ends}`
      )
      const other = yield* next.subscribe(options)
      const again = yield* takeOne(env, other)
      yield* checkEqual(idOf(again), idOf(delivery), "what the other gets")
      yield* check(
        ends === undefined || !env.calm || (yield* now) >= ends - 2,
        "the other got the message while its lease had not ended"
      )
      const answers = yield* settle(env, subscription, { _tag: "Acknowledge", delivery })
      yield* check(answers[0] !== "Settled", "the late settlement says that the broker has confirmed it")
      const [renewed] = yield* env.patiently(subscription.renew([delivery]))
      yield* check(
        renewed === "Lost" || renewed === undefined || renewed <= (ends ?? 0),
        () => `a lease that another has was renewed: ${show(renewed)}`
      )
      // The other still has it, and gives it back.
      yield* settle(env, other, { _tag: "Release", delivery: again })
      const third = yield* takeOne(env, other)
      yield* acknowledge(env, other, [third])
      const more = yield* takeRest(env, other)
      return { sent: 1, duplicates: more.length }
    })
}

const renewMoves: Spec = {
  id: "renew-moves",
  name: "renewing moves the end of a lease, or says that it cannot",
  needs: needsLease,
  run: (env) =>
    Effect.gen(function* () {
      const topic = env.topic("g")
      const app = yield* env.connect
      yield* app.publish(topic, { n: 0, key: "k" })
      const subscription = yield* app.subscribe({ topic: topic.name, group: "g", lease: env.lease })
      const delivery = yield* takeOne(env, subscription)
      const ends = delivery.leaseEndsAt ?? 0
      yield* Effect.sleep(Math.min(env.lease / 4, 100))
      const before = yield* now
      const [renewed] = yield* env.patiently(subscription.renew([delivery]))
      if (renewed === "Lost" || renewed === undefined) {
        yield* check(renewed === undefined || !env.calm, "a lease was lost before its end")
      } else {
        yield* check(renewed >= ends, `a lease that ended at ${ends} was renewed to end at ${renewed}`)
        yield* check(
          renewed <= (yield* now) + env.lease && (renewed === ends || renewed >= before),
          `a lease of ${env.lease} ms, renewed at ${before}, ends at ${renewed}`
        )
      }
      if (renewed !== "Lost") yield* acknowledge(env, subscription, [delivery])
      return { sent: 1, duplicates: 0 }
    })
}

export const leases: ReadonlyArray<Spec> = [renewal, lostLease, lateSettlement, renewMoves]
