/** The operations of the driver, put together from its parts. */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { BrokerError } from "../../../messaging/BrokerError.ts"
import type {
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
import type { PartitionLag } from "../Positions.ts"
import { backlogOf, backlogOfOne, lagOf } from "./Backlog.ts"
import type { TopicInfo } from "./Cluster.ts"
import type { SendCopy } from "./Consumption.ts"
import { Consumption } from "./Consumption.ts"
import { errorOf, rejected, system, unavailable } from "./errors.ts"
import { invalidName } from "./Names.ts"
import { KafkaDelivery } from "./Partition.ts"
import { Parts } from "./Parts.ts"
import type { Outgoing } from "./Producer.ts"
import { entryOf } from "./registered.ts"
import type { Settings } from "./Settings.ts"
import { checkVersions } from "./versions.ts"

/** With what Kafka alone can. */
export interface KafkaDriver extends Driver {
  readonly kafka: {
    readonly lag: (group: Group) => Effect.Effect<ReadonlyArray<PartitionLag>, BrokerError>
    readonly moveTo: (group: Group, offsets: ReadonlyArray<number | undefined>) => Effect.Effect<void, BrokerError>
  }
}

/** Opens the connections; they close with the scope. Fails where no server can be reached, or they refuse. */
export const open = (settings: Settings, name: string): Effect.Effect<KafkaDriver, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const parts = yield* Effect.acquireRelease(
      Effect.sync(() => new Parts(settings)),
      ({ close }) => close
    )
    yield* Effect.tryPromise({
      try: async () => {
        await checkVersions(parts.cluster)
        await parts.cluster.refresh([])
      },
      catch: (error) => notConnected(settings, error)
    })
    yield* enter(entryOf(name, parts))
    return {
      system,
      abilities: {
        delay: "none",
        priority: "none",
        order: "native",
        replay: "native",
        browse: "native",
        results: "none"
      },
      dedupe: "none",
      maxMessageBytes: settings.maxMessageBytes,
      declare: (topology) => declare(parts, topology),
      publish: (messages) => publish(parts, messages),
      subscribe: (options) => subscribe(parts, options),
      backlog: (group) => about(parts, "ask for the backlog", group, () => backlogOf(parts, group)),
      groups: (topic) => about(parts, "list groups", { topic }, () => parts.topology.groups(topic)),
      removeGroup: (group) => removeGroup(parts, group),
      deadLetters: parts.letters.store(parts.removeLetter),
      kafka: {
        lag: (group) => about(parts, "ask for the lag", group, () => lagOf(parts, group)),
        moveTo: (group, offsets) => about(parts, "move a group", group, () => parts.topology.moveTo(group, offsets))
      }
    }
  })

/** The client does not always say where. */
const notConnected = ({ brokers }: Settings, cause: unknown): BrokerError => {
  const about = { operation: "connect" }
  const error = errorOf(about, cause)
  if (error.reason._tag === "Rejected") return error
  const servers = brokers.map(({ host, port }) => `${host}:${port}`).join(", ")
  return unavailable(about, `none of ${servers} could be reached: ${error.reason.detail}`, cause)
}

const about = <A>(
  parts: Parts,
  operation: string,
  { group, topic }: { readonly topic: string; readonly group?: string },
  run: () => Promise<A>
): Effect.Effect<A, BrokerError> => {
  const wrong = invalidName(operation, topic, group)
  return wrong === undefined ? parts.cluster.patiently({ operation, topic }, run) : Effect.fail(wrong)
}

const declare = (parts: Parts, { groups, topic }: Topology): Effect.Effect<void, BrokerError> => {
  const wrong = groups.map((group) => invalidName("declare", topic, group)).find((error) => error !== undefined)
  if (wrong !== undefined) return Effect.fail(wrong)
  return about(parts, "declare", { topic }, async () => {
    await parts.topology.need(topic)
    for (const group of groups) await parts.topology.needGroup({ topic, group }, undefined)
  })
}

const publish = (
  parts: Parts,
  messages: ReadonlyArray<OutgoingMessage>
): Effect.Effect<ReadonlyArray<Published>, BrokerError> =>
  Effect.suspend(() => {
    const problems = messages.map((message) => parts.problemOf(message))
    const unknown = messages.filter(
      ({ destination }, i) => problems[i] === undefined && parts.knownTopic(destination) === undefined
    )
    const send = sendAll(parts, messages, problems, new Map())
    const ready =
      unknown.length === 0
        ? send
        : Effect.flatMap(findTopics(parts, unknown), (found) => sendAll(parts, messages, problems, found))
    return parts.producer.hasRoom ? ready : Effect.andThen(room(parts), ready)
  })

type Topics = ReadonlyMap<OutgoingMessage, Result.Result<TopicInfo, BrokerError>>

/** The topics of messages that nothing is known of, each asked for once. */
const findTopics = (parts: Parts, messages: ReadonlyArray<OutgoingMessage>): Effect.Effect<Topics> => {
  const byPlace = Map.groupBy(messages, ({ destination }) => JSON.stringify(destination))
  return Effect.map(
    Effect.forEach(
      byPlace.values(),
      (some) => {
        const [first] = some
        if (first === undefined) return Effect.succeed([])
        return Effect.map(Effect.result(parts.findTopic(first.destination)), (found) =>
          some.map((message) => [message, found] as const)
        )
      },
      { concurrency: 8 }
    ),
    (found) => new Map(found.flat())
  )
}

/** Waits until there is room for more. Of those that are told of it at the same time the first may take it. */
const room = (parts: Parts): Effect.Effect<void> =>
  Effect.suspend(() =>
    parts.producer.hasRoom
      ? Effect.void
      : Effect.andThen(
          Effect.callback<void>((resume) => parts.producer.onRoom(() => resume(Effect.void))),
          room(parts)
        )
  )

const sendAll = (
  parts: Parts,
  messages: ReadonlyArray<OutgoingMessage>,
  problems: ReadonlyArray<BrokerError | undefined>,
  found: Topics
): Effect.Effect<ReadonlyArray<Published>, BrokerError> =>
  Effect.callback((resume) => {
    const answers = new Array<Published>(messages.length)
    let left = messages.length
    if (left === 0) return resume(Effect.succeed(answers))
    const records: Array<Outgoing> = []
    const turn = parts.nextTurn()
    messages.forEach((message, i) => {
      const done = (answer: Published) => {
        answers[i] = answer
        if (--left === 0) resume(Effect.succeed(answers))
      }
      const { destination, envelope } = message
      const problem = problems[i]
      if (problem !== undefined) return done({ _tag: "Failed", error: problem })
      const asked = found.get(message)
      const topic = asked === undefined ? parts.knownTopic(destination) : Result.getOrUndefined(asked)
      const about = { operation: "publish", topic: destination.topic, ids: [envelope.id] }
      if (topic !== undefined) records.push(parts.record(about, topic, message, turn, done))
      else {
        const reason = asked !== undefined && Result.isFailure(asked) ? asked.failure.reason : undefined
        const error =
          reason === undefined
            ? errorOf(about, new Error("the topic was just removed"))
            : new BrokerError({ broker: system, ...about, reason })
        done({ _tag: "Failed", error })
      }
    })
    for (const record of records) parts.producer.send(record)
    return Effect.sync(() => {
      for (const record of records) record.cancelled = true
    })
  })

const subscribe = (parts: Parts, options: SubscribeOptions): Effect.Effect<Subscription, BrokerError, Scope.Scope> => {
  const { group, topic } = options
  const about = { operation: "subscribe", topic }
  const wrong = invalidName("subscribe", topic, group)
  if (wrong !== undefined) return Effect.fail(wrong)
  return Effect.gen(function* () {
    const { cluster, topology } = parts
    const lost = yield* Queue.unbounded<ReadonlyArray<Delivery>, Cause.Done>()
    const context = yield* Effect.context<never>()
    const log = (message: string) => void Effect.runForkWith(context)(Effect.logWarning(message))
    yield* cluster.patiently(about, () => topology.needGroup(options, options.replay))
    const consumption = yield* Effect.acquireRelease(
      Effect.sync(() => {
        const made = new Consumption(options, { cluster, topology, log, sendCopy: copyBy(parts, options) }, lost)
        parts.consumptions.add(made)
        return made
      }),
      (consumption) =>
        Effect.promise(async () => {
          await consumption.close()
          parts.consumptions.delete(consumption)
        })
    )
    yield* cluster.patiently(about, () => consumption.begin())
    yield* Effect.forkScoped(tellOfProblems(consumption))
    return {
      take: (max, maxBytes) => consumption.take(max, maxBytes),
      settle: (settlements) => consumption.settle(settlements),
      renew: (deliveries) => Effect.sync(() => deliveries.map(renewed)),
      lost: Stream.fromQueue(lost),
      setCredit: (credit) => Effect.sync(() => consumption.setCredit(credit)),
      backlog: cluster.patiently({ operation: "ask for the backlog", topic }, () => backlogOfOne(parts, consumption)),
      problem: () => consumption.problem
    }
  })
}

/** Says once that it receives nothing, and when it does again. What is over within a second needs no word. */
const tellOfProblems = (consumption: Consumption): Effect.Effect<never> => {
  const { group, topic } = consumption.options
  const who = `Kafka: group "${group}" of topic "${topic}"`
  let seen = 0
  const look = Effect.suspend(() => {
    const { problem } = consumption
    const before = seen
    seen = problem === undefined ? 0 : seen + 1
    if (problem !== undefined && seen === 2) {
      return Effect.logWarning(`${who} receives nothing (${problem.reason.detail}); it goes on trying`)
    }
    return seen === 0 && before >= 2 ? Effect.logInfo(`${who} receives again`) : Effect.void
  })
  return Effect.forever(Effect.andThen(Effect.sleep("1 second"), look))
}

/** There are no leases; a delivery lasts as long as its partition is ours. */
const renewed = (delivery: Delivery): undefined | "Lost" =>
  delivery instanceof KafkaDelivery && !delivery.entry.partition.closed && !delivery.settled ? undefined : "Lost"

const copyBy =
  (parts: Parts, group: Group): SendCopy =>
  (delivery, message, due, done) => {
    const { entry } = delivery
    const about = { operation: "retry", topic: group.topic, ids: [message.envelope.id] }
    parts.topology.needRetryTopic(group).then(
      (topic) => {
        // It was lost meanwhile, or given back, and comes as it was.
        if (entry.record === undefined || entry.delivery !== delivery) {
          const error = rejected(about, "Refused", "the message was settled otherwise")
          return done({ _tag: "Failed", error })
        }
        parts.producer.send(parts.copy(entry, topic, message, due, done))
      },
      (error) => done({ _tag: "Failed", error: errorOf(about, error) })
    )
  }

const removeGroup = (parts: Parts, group: Group): Effect.Effect<void, BrokerError> =>
  about(parts, "remove a group", group, async () => {
    const error = rejected(
      { operation: "take", topic: group.topic },
      "NoGroup",
      "the group was removed; subscribe anew"
    )
    const ours = [...parts.consumptions].filter(
      ({ options }) => options.topic === group.topic && options.group === group.group
    )
    await Promise.all(ours.map((consumption) => consumption.endWith(error)))
    await parts.topology.remove(group)
  })
