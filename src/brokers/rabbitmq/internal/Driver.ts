/** The operations of the driver, put together from its parts. */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import { BrokerError } from "../../../messaging/BrokerError.ts"
import type {
  Backlog,
  Delivery,
  Driver,
  Group,
  OutgoingMessage,
  Published,
  SubscribeOptions,
  Subscription,
  Topology
} from "../../../messaging/Driver.ts"
import { enter } from "../../../registry/Registry.ts"
import { Consumption } from "./Consumption.ts"
import { rejected, system } from "./errors.ts"
import type { Item } from "./Lane.ts"
import { invalidName, queueOf } from "./Names.ts"
import { itemOf, letterOf, retryOf } from "./Outgoing.ts"
import { Parts } from "./Parts.ts"
import { entryOf } from "./registered.ts"
import { RabbitDelivery } from "./Session.ts"
import type { Settings } from "./Settings.ts"

/** Opens the connections; they close with the scope. Fails where the server cannot be reached or refuses. */
export const open = (settings: Settings, name: string): Effect.Effect<Driver, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const parts = new Parts(settings, yield* Effect.context<never>())
    yield* Effect.acquireRelease(Effect.void, () => parts.aside.close)
    yield* parts.consuming.start
    yield* parts.publishing.start
    yield* enter(entryOf(name, parts))
    return {
      system,
      abilities: {
        delay: "native",
        priority: settings.priorities === undefined ? "none" : "native",
        order: settings.ordered === undefined ? "none" : "native",
        replay: "none",
        browse: "none",
        results: "none"
      },
      dedupe: "none",
      maxMessageBytes: settings.maxMessageBytes,
      declare: (topology) => declare(parts, topology),
      publish: (messages) => publish(parts, messages),
      subscribe: (options) => subscribe(parts, options),
      backlog: (group) => backlog(parts, group),
      // The protocol has no question for it.
      groups: () => Effect.succeed(undefined),
      removeGroup: (group) => removeGroup(parts, group)
    }
  })

const declare = (parts: Parts, { groups, topic }: Topology): Effect.Effect<void, BrokerError> => {
  const wrong =
    invalidName("declare", topic) ??
    groups.map((group) => invalidName("declare", topic, group)).find((error) => error !== undefined)
  if (wrong !== undefined) return Effect.fail(wrong)
  return parts.onChannel({ operation: "declare", topic }, (channel) => parts.topology.declare(channel, topic, groups))
}

const publish = (
  parts: Parts,
  messages: ReadonlyArray<OutgoingMessage>
): Effect.Effect<ReadonlyArray<Published>, BrokerError> =>
  Effect.callback((resume) => {
    const answers = new Array<Published>(messages.length)
    let left = messages.length
    if (left === 0) return resume(Effect.succeed(answers))
    const items: Array<Item> = []
    for (const [index, message] of messages.entries()) {
      const done = (answer: Published) => {
        answers[index] = answer
        if (--left === 0) resume(Effect.succeed(answers))
      }
      const item = itemOf(parts.settings, parts.topology, message, done)
      if (item instanceof BrokerError) done({ _tag: "Failed", error: item })
      else items.push(item)
    }
    // After all were checked, so that nothing is sent of a call that dies on its arguments.
    for (const item of items) parts.publisher.submit(item)
    return Effect.sync(() => parts.publisher.cancel(items))
  })

const subscribe = (parts: Parts, options: SubscribeOptions): Effect.Effect<Subscription, BrokerError, Scope.Scope> => {
  const { group, topic } = options
  const about = { operation: "subscribe", topic }
  const wrong = invalidName("subscribe", topic, group)
  if (wrong !== undefined) return Effect.fail(wrong)
  if (options.order === "key" && !parts.topology.isOrdered(group)) {
    const detail = `the queue of group "${group}" is not declared for order by key; name the group in the option "order" of the layer, or leave out order here`
    return Effect.fail(rejected(about, "Unsupported", detail))
  }
  if (options.replay !== undefined) {
    const detail = "RabbitMQ keeps no messages for groups that do not exist yet; leave out replay"
    return Effect.fail(rejected(about, "Unsupported", detail))
  }
  return Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const lost = yield* Queue.unbounded<ReadonlyArray<Delivery>, Cause.Done>()
    const { consuming, settings, topology } = parts
    const consumption = new Consumption(
      options,
      {
        link: consuming,
        aside: parts.aside,
        settings,
        topology,
        clock,
        log: parts.log,
        retry: (delivery, envelope, delay, done) => {
          const message = { envelope, body: delivery.message.body }
          parts.publisher.submit(retryOf(settings, topology, options, delivery, message, delay, done))
        },
        setAside: (delivery, envelope, done) => {
          const message = { envelope, body: delivery.message.body }
          parts.publisher.submit(letterOf(settings, topology, options, message, done))
        }
      },
      lost
    )
    yield* Effect.acquireRelease(
      Effect.sync(() => parts.consumptions.add(consumption)),
      () =>
        Effect.andThen(
          Effect.sync(() => parts.consumptions.delete(consumption)),
          consumption.close
        )
    )
    yield* parts.patiently(about, consumption.begin)
    yield* Effect.forkScoped(consumption.keep)
    const expiry = Math.min(10_000, settings.acknowledgementTimeout / 20)
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(expiry), consumption.expire)))
    // A queue whose exchange or binding is deleted gets nothing any more, and nobody is told.
    const declared = Effect.suspend(() =>
      consumption.isConsuming ? Effect.ignore(declare(parts, { topic, groups: [group] })) : Effect.void
    )
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep("10 seconds"), declared)))
    return {
      take: (max, maxBytes) => consumption.take(max, maxBytes),
      settle: (settlements) => Effect.sync(() => consumption.settle(settlements)),
      renew: (deliveries) => Effect.sync(() => deliveries.map(renewed)),
      lost: consumption.lost,
      setCredit: (credit) => Effect.sync(() => consumption.setCredit(credit)),
      problem: () => consumption.problem,
      backlog:
        options.order === "key" ? Effect.map(backlog(parts, options), (group) => consumption.backlog(group)) : undefined
    }
  })
}

/** The server's time for an acknowledgement cannot be extended. */
const renewed = (delivery: Delivery): number | undefined | "Lost" =>
  delivery instanceof RabbitDelivery && delivery.state !== "lost" ? delivery.leaseEndsAt : "Lost"

const backlog = (parts: Parts, group: Group): Effect.Effect<Backlog, BrokerError> => {
  const about = { operation: "ask for the backlog", topic: group.topic }
  const wrong = invalidName(about.operation, group.topic, group.group)
  if (wrong !== undefined) return Effect.fail(wrong)
  // Those that wait for their time are in queues that cannot be asked for without knowing which there are.
  const known = (waiting: number): Backlog => ({ waiting, delayed: undefined, inFlight: undefined, oldest: undefined })
  return parts
    .onChannel(about, (channel) => channel.checkQueue(queueOf(group)))
    .pipe(
      Effect.map(({ messageCount }) => known(messageCount)),
      // There is no such queue.
      Effect.catchIf(
        ({ reason }) => reason._tag === "Rejected" && reason.code === "NoGroup",
        () => Effect.succeed(known(0))
      )
    )
}

const removeGroup = (parts: Parts, group: Group): Effect.Effect<void, BrokerError> => {
  const about = { operation: "remove a group", topic: group.topic }
  const wrong = invalidName(about.operation, group.topic, group.group)
  if (wrong !== undefined) return Effect.fail(wrong)
  return Effect.suspend(() => {
    for (const consumption of parts.consumptions) {
      const { options } = consumption
      if (options.topic !== group.topic || options.group !== group.group) continue
      consumption.endWith(rejected(about, "NoGroup", "the group was removed; subscribe anew"))
    }
    return parts.onChannel(about, (channel) => parts.topology.remove(channel, group))
  })
}
