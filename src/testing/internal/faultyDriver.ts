/**
 * A driver around another one, whose operations go wrong as `Faults` decides.
 */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../../messaging/BrokerError.ts"
import type {
  DeadLetterStore,
  Delivery,
  Driver,
  Group,
  OutgoingMessage,
  Published,
  Settlement,
  Subscription
} from "../../messaging/Driver.ts"
import type { About, Faults } from "./Faults.ts"

/** The driver, with faults in each of its operations. */
export const faultyDriver = (driver: Driver, faults: Faults): Driver => {
  const { system } = driver
  return {
    ...driver,
    declare: (topology) => faults.call(system, "declare", { topic: topology.topic }, driver.declare(topology)),
    publish: (messages) =>
      faults.call(system, "publish", aboutMessages(messages), driver.publish(messages), {
        partial: (error) => publishSome(driver, faults, messages, error)
      }),
    subscribe: (options) => {
      const { topic } = options
      const run = Effect.map(driver.subscribe(options), (subscription) =>
        wrapSubscription(system, topic, subscription, faults)
      )
      return faults.call(system, "subscribe", { topic }, run, {
        // Nobody hears of this subscription, so it is closed again.
        after: (end) => Effect.scoped(Effect.andThen(run, end))
      })
    },
    backlog: (group) => faults.call(system, "backlog", { topic: group.topic }, driver.backlog(group)),
    groups: (topic) => faults.call(system, "groups", { topic }, driver.groups(topic)),
    removeGroup: (group) => faults.call(system, "removeGroup", { topic: group.topic }, driver.removeGroup(group)),
    deadLetters: driver.deadLetters && wrapDeadLetters(system, driver.deadLetters, faults)
  }
}

const aboutMessages = (messages: ReadonlyArray<OutgoingMessage>): About => {
  const ids = messages.map(({ envelope }) => envelope.id)
  const topic = messages[0]?.destination.topic
  return topic === undefined ? { ids } : { topic, ids }
}

/** A third is confirmed, a third fails before it is sent, and a third after. */
const publishSome = (
  driver: Driver,
  faults: Faults,
  messages: ReadonlyArray<OutgoingMessage>,
  error: BrokerError
): Effect.Effect<ReadonlyArray<Published>, BrokerError> =>
  Effect.suspend(() => {
    const fates = messages.map(() => Math.floor(faults.each("publish") * 3))
    const failed: Published = { _tag: "Failed", error }
    const sent = messages.filter((_, index) => fates[index] !== 1)
    if (sent.length === 0) return Effect.succeed(messages.map(() => failed))
    return Effect.map(driver.publish(sent), (answers) => {
      const left = [...answers]
      return fates.map((fate) => {
        const answer = fate === 1 ? failed : (left.shift() ?? failed)
        return fate === 0 ? answer : failed
      })
    })
  })

const idsOf = (deliveries: ReadonlyArray<Delivery>): ReadonlyArray<string> =>
  deliveries.map(({ message }) => message.envelope.id)

const wrapSubscription = (system: string, topic: string, inner: Subscription, faults: Faults): Subscription => {
  /** What the broker took back: it is not ours any more, whatever it says itself. */
  const lost = new WeakSet<Delivery>()

  /** What was handed over and could not be told goes back: kept for the next take it might come out of order. */
  const take = (max: number, maxBytes: number): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> => {
    const run = inner.take(max, maxBytes)
    return faults.call(system, "take", { topic }, run, {
      after: (end) => Effect.flatMap(run, (deliveries) => Effect.ensuring(end, Effect.ignore(giveBack(deliveries))))
    })
  }

  const giveBack = (deliveries: ReadonlyArray<Delivery>) =>
    inner.settle(deliveries.map((delivery) => ({ _tag: "Release", delivery })))

  // What is lost is known when they run, not when they are made.
  const settle = (settlements: ReadonlyArray<Settlement>) =>
    Effect.suspend(() => {
      const ours = settlements.filter(({ delivery }) => !lost.has(delivery))
      return Effect.map(ours.length === 0 ? Effect.succeed([]) : inner.settle(ours), (answers) => {
        const answered = new Map(ours.map(({ delivery }, index) => [delivery, answers[index]]))
        return settlements.map(({ delivery }) => answered.get(delivery) ?? "Lost")
      })
    })

  const renew = (deliveries: ReadonlyArray<Delivery>) =>
    Effect.suspend(() => {
      const ours = deliveries.filter((delivery) => !lost.has(delivery))
      return Effect.map(ours.length === 0 ? Effect.succeed([]) : inner.renew(ours), (ends) => {
        const renewed = new Map(ours.map((delivery, index) => [delivery, ends[index]]))
        return deliveries.map((delivery) => (renewed.has(delivery) ? renewed.get(delivery) : "Lost"))
      })
    })

  /** Lets the broker have some of the deliveries, at least one. */
  const lose = (deliveries: ReadonlyArray<Delivery>) =>
    Effect.suspend(() => {
      const chosen = deliveries.filter(() => faults.each("renew") < 0.5)
      const victims = (chosen.length > 0 ? chosen : deliveries.slice(0, 1)).filter((delivery) => !lost.has(delivery))
      for (const delivery of victims) lost.add(delivery)
      return Effect.asVoid(giveBack(victims))
    })

  const some = <A>(operation: "settle" | "renew", all: ReadonlyArray<A>): ReadonlyArray<A> =>
    all.filter(() => faults.each(operation) < 0.5)

  return {
    take,
    settle: (settlements) => {
      const about = { topic, ids: idsOf(settlements.map(({ delivery }) => delivery)) }
      return faults.call(system, "settle", about, settle(settlements), {
        partial: (error) =>
          Effect.andThen(
            Effect.suspend(() => settle(some("settle", settlements))),
            Effect.fail(error)
          )
      })
    },
    renew: (deliveries) =>
      faults.call(system, "renew", { topic, ids: idsOf(deliveries) }, renew(deliveries), {
        partial: (error) =>
          Effect.andThen(
            Effect.suspend(() => renew(some("renew", deliveries))),
            Effect.fail(error)
          ),
        lose: Effect.andThen(lose(deliveries), renew(deliveries))
      }),
    lost: inner.lost,
    setCredit: (credit) => faults.call(system, "setCredit", { topic }, inner.setCredit(credit)),
    backlog: inner.backlog && faults.call(system, "backlog", { topic }, inner.backlog),
    problem: inner.problem
  }
}

const wrapDeadLetters = (system: string, inner: DeadLetterStore, faults: Faults): DeadLetterStore => {
  const { move } = inner
  return {
    read: (group, after) => faults.stream(system, "readLetters", { topic: group.topic }, inner.read(group, after)),
    remove: (group, positions) =>
      faults.call(system, "removeLetters", { topic: group.topic }, inner.remove(group, positions)),
    ...(move && {
      move: (group: Group, position: string, message: OutgoingMessage) =>
        faults.call(system, "moveLetter", aboutMessages([message]), move(group, position, message))
    }),
    groups: (topic) => faults.call(system, "letterGroups", { topic }, inner.groups(topic))
  }
}
