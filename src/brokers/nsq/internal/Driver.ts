/** The operations of the driver, put together from its parts. */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FiberMap from "effect/FiberMap"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import { BrokerError } from "../../../messaging/BrokerError.ts"
import type {
  Delivery,
  Driver,
  OutgoingMessage,
  Published,
  SubscribeOptions,
  Subscription,
  Topology
} from "../../../messaging/Driver.ts"
import { enter } from "../../../registry/Registry.ts"
import * as Lookup from "../protocol/Lookup.ts"
import { backlog, groups, removeGroup } from "./Admin.ts"
import { Consumption, turnMillis } from "./Consumption.ts"
import { Copies } from "./Copies.ts"
import { connectOptions } from "./connectOptions.ts"
import { errorOf, rejected, system } from "./errors.ts"
import { Feed } from "./Feed.ts"
import { invalidName, ownTopicOf } from "./Names.ts"
import { itemOf } from "./Outgoing.ts"
import { Parts } from "./Parts.ts"
import type { Item } from "./Publisher.ts"
import { entryOf } from "./registered.ts"
import type { NodeAddress, Settings } from "./Settings.ts"
import { growth, keyOf } from "./Settings.ts"

/** Opens the connections; they close with the scope. Fails where no server can be reached, or one refuses. */
export const open = (settings: Settings, name: string): Effect.Effect<Driver, BrokerError, Scope.Scope> =>
  Effect.gen(function* () {
    const context = yield* Effect.context<never>()
    const parts = new Parts(settings, yield* FiberMap.make<string>(), Effect.runForkWith(context))
    yield* parts.start
    yield* enter(entryOf(name, parts))
    return {
      system,
      abilities: {
        delay: "native",
        priority: "none",
        order: "none",
        replay: "none",
        browse: "none",
        results: "none"
      },
      dedupe: "none",
      maxMessageBytes: settings.maxFrameBytes - growth,
      declare: (topology) => declare(parts, topology),
      publish: (messages) => publish(parts, messages),
      subscribe: (options) => subscribe(parts, options),
      backlog: (group) => backlog(parts, group),
      groups: (topic) => groups(parts, topic),
      removeGroup: (group) => removeGroup(parts, group)
    }
  })

const declare = (parts: Parts, { groups, topic }: Topology): Effect.Effect<void, BrokerError> => {
  const wrong =
    invalidName("declare", topic) ??
    groups.map((group) => invalidName("declare", topic, group)).find((error) => error !== undefined)
  if (wrong !== undefined) return Effect.fail(wrong)
  return parts.declare({ operation: "declare", topic }, topic, groups)
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
    messages.forEach((message, index) => {
      const done = (answer: Published) => {
        answers[index] = answer
        if (--left === 0) resume(Effect.succeed(answers))
      }
      const item = itemOf(parts.settings, message, done)
      if (item instanceof BrokerError) done({ _tag: "Failed", error: item })
      else items.push(item)
    })
    // After all were checked, so that nothing is sent of a call that dies on its arguments.
    for (const item of items) parts.publisher.submit(item)
    return Effect.sync(() => parts.publisher.cancel(items))
  })

const subscribe = (parts: Parts, options: SubscribeOptions): Effect.Effect<Subscription, BrokerError, Scope.Scope> => {
  const { group, topic } = options
  const about = { operation: "subscribe", topic }
  const wrong = invalidName("subscribe", topic, group)
  if (wrong !== undefined) return Effect.fail(wrong)
  if (options.order === "key") {
    const detail = "NSQ keeps no order by key; leave out order, or use a broker that does"
    return Effect.fail(rejected(about, "Unsupported", detail))
  }
  if (options.lease > longestLease) {
    const detail = `servers take leases of ${longestLease / 60_000} minutes at most, and renew them up to their -max-msg-timeout; choose a shorter lease`
    return Effect.fail(rejected(about, "Unsupported", detail))
  }
  if (options.replay !== undefined) {
    const detail = "NSQ keeps no messages for groups that do not exist yet; leave out replay"
    return Effect.fail(rejected(about, "Unsupported", detail))
  }
  return Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const context = yield* Effect.context<never>()
    const fork = Effect.runForkWith(context)
    yield* parts.declare(about, topic, [group])
    const lost = yield* Queue.unbounded<ReadonlyArray<Delivery>, Cause.Done>()
    const own = ownTopicOf(options)
    const copies = new Copies(parts.publisher, own, parts.settings.maxFrameBytes, (message, error) => {
      fork(Effect.logWarning(message, error))
    })
    const consumption = new Consumption(
      options,
      {
        clock,
        copies,
        longestStep: () => parts.publisher.longestStep,
        outputBufferTimeout: parts.settings.outputBufferTimeout
      },
      lost
    )
    const fibers = yield* FiberMap.make<string>()
    let onOpened: (() => void) | undefined
    let onRefused: ((error: BrokerError) => void) | undefined
    const known = new Set<string>()
    const feeds = new Map<string, Feed>()
    /** The server has said no. It is asked again and again, and meanwhile an operator should know. */
    const refuse = (feed: string, problem: BrokerError) => {
      const { refusals } = consumption
      if (refusals.get(feed)?.message !== problem.message) fork(Effect.logWarning(`NSQ: ${problem.reason.detail}`))
      refusals.set(feed, problem)
      // Where all say no, and would again, there is nothing to wait for.
      const all = [...known].every((key) => refusals.get(`${key} ${topic}`)?.reason._tag === "Rejected")
      if (all) onRefused?.(problem)
    }
    const feedOf = (address: NodeAddress, place: { readonly topic: string; readonly own: boolean }, name: string) =>
      new Feed(
        { ...place, channel: group },
        () => ({ ...connectOptions(parts.settings, address), ...leaseOf(options) }),
        {
          opened: (session) => {
            consumption.opened(session)
            if (consumption.refusals.delete(name)) {
              fork(Effect.logInfo(`NSQ: nsqd ${keyOf(address)} hands over what is in "${place.topic}" again`))
            }
            if (!session.own) onOpened?.()
          },
          ended: (session) => consumption.ended(session),
          rescue: (messages) => {
            const text = `NSQ: nsqd ${keyOf(address)} was restarted, or is not waited for any more; ${messages.length} messages of "${topic}" that were held from it are sent to group "${group}" again`
            fork(Effect.logWarning(text))
            for (const message of messages) {
              if (copies.send(message, 0, () => undefined)) continue
              const { id } = message.envelope
              fork(Effect.logError(`NSQ: message ${id} of "${topic}" is too large to be sent again, and may be lost`))
            }
          },
          failed: (error) => {
            const where = `nsqd ${keyOf(address)} refuses channel "${group}" of topic "${place.topic}"`
            const refused = error._tag === "ServerError"
            const problem = refused
              ? errorOf(about, error, `${where}: ${error.message}`)
              : errorOf({ operation: "take", topic }, error)
            consumption.unreachable(problem)
            if (refused) refuse(name, problem)
          },
          onMessage: (session, message) => consumption.receive(session, message),
          onFailed: (session, error) => consumption.failed(session, error)
        },
        Effect.suspend(() => {
          const http = parts.httpOf(address)
          return http === undefined
            ? Effect.undefined
            : Effect.option(Lookup.startTime(http)).pipe(Effect.map(Option.getOrUndefined))
        })
      )
    const follow = () => {
      for (const address of parts.nodes.having([topic, own])) {
        const key = keyOf(address)
        if (known.has(key)) continue
        known.add(key)
        for (const place of [
          { topic, own: false },
          { topic: own, own: true }
        ]) {
          const name = `${key} ${place.topic}`
          const feed = feedOf(address, place, name)
          feeds.set(name, feed)
          fork(FiberMap.run(fibers, name, feed.keep))
        }
      }
      const current = new Set(parts.nodes.having([topic, own]).map(keyOf))
      for (const key of known) {
        if (current.has(key)) continue
        known.delete(key)
        for (const name of [`${key} ${topic}`, `${key} ${own}`]) {
          feeds.get(name)?.rescue()
          feeds.delete(name)
          consumption.refusals.delete(name)
          fork(FiberMap.remove(fibers, name))
        }
      }
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        parts.consumptions.add(consumption)
        return parts.nodes.onChange(follow)
      }),
      (stop) =>
        Effect.gen(function* () {
          stop()
          // Of an nsqd that is away now nobody else knows what was held.
          for (const feed of feeds.values()) feed.rescue()
          parts.consumptions.delete(consumption)
          yield* consumption.close
          copies.close()
        })
    )
    const opened = Effect.callback<void, BrokerError>((resume) => {
      onOpened = () => resume(Effect.void)
      onRefused = (error) => resume(Effect.fail(error))
      follow()
    })
    yield* parts.patiently(about, opened, () => consumption.problem?.reason.detail)
    const tick = Effect.suspend(() => Effect.sleep(consumption.hasTurns ? turnMillis : 5 * turnMillis))
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(tick, consumption.tick)))
    return {
      take: (max, maxBytes) => consumption.take(max, maxBytes),
      settle: (settlements) => Effect.sync(() => consumption.settle(settlements)),
      renew: (deliveries) => Effect.sync(() => consumption.renew(deliveries)),
      lost: consumption.lost,
      setCredit: (credit) => Effect.sync(() => consumption.setCredit(credit)),
      problem: () => consumption.problem
    }
  })
}

/** The longest that servers allow, where they are left as they come. */
const longestLease = 900_000
/** They allow no shorter one than a second. */
const leaseOf = ({ lease }: SubscribeOptions) => ({ msgTimeout: Math.max(1000, lease) })
