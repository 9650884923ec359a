/** Drivers that change messages, mix up groups, mislay dead letters or say what is not so. */
import { Effect } from "effect"
import type { Driver } from "millrace"
import {
  anotherId,
  confirmed,
  lacks,
  letters,
  type Mutant,
  publishing,
  receiving,
  saysNo,
  subscribing
} from "./support.ts"

export const contents: ReadonlyArray<Mutant> = [
  {
    name: "loses headers",
    caughtBy: ["round-trip", "unicode", "whole-envelope"],
    mutate: receiving(({ body, envelope }) => ({ body, envelope: { ...envelope, headers: {} } }))
  },
  {
    name: "writes headers as latin 1",
    caughtBy: ["unicode"],
    mutate: receiving(({ body, envelope }) => ({
      body,
      envelope: {
        ...envelope,
        headers: Object.fromEntries(
          Object.entries(envelope.headers).map(([name, value]) => [
            name,
            Buffer.from(value, "latin1").toString("latin1")
          ])
        )
      }
    }))
  },
  {
    name: "turns an empty key into none",
    caughtBy: ["unicode"],
    mutate: receiving(({ body, envelope }) => ({ body, envelope: { ...envelope, key: envelope.key || undefined } }))
  },
  {
    name: "cuts payloads at 64 KiB",
    caughtBy: ["bytes"],
    mutate: receiving(({ body, envelope }) => ({ envelope, body: body.subarray(0, 65_536) }))
  },
  {
    name: "reads payloads as text",
    caughtBy: ["bytes", "undecodable"],
    mutate: receiving(({ body, envelope }) => ({
      envelope,
      body: new TextEncoder().encode(new TextDecoder().decode(body))
    }))
  },
  {
    name: "takes a payload that is larger than it says",
    caughtBy: ["too-large"],
    mutate: (driver) => ({ ...driver, maxMessageBytes: 100_000 })
  },
  {
    name: "fails a whole batch for one message that is too large",
    caughtBy: ["too-large"],
    memory: { maxMessageBytes: 100_000 },
    mutate: (driver) => ({
      ...driver,
      publish: (messages) =>
        Effect.map(driver.publish(messages), (answers) => {
          const failed = answers.find(({ _tag }) => _tag === "Failed")
          return failed === undefined ? answers : answers.map(() => failed)
        })
    })
  },
  {
    name: "joins topic and group with a point",
    caughtBy: ["names"],
    mutate: (driver) => {
      const joined = new Map<string, Driver.Group>()
      const first = (group: Driver.Group) => {
        const name = `${group.topic}.${group.group}`
        const known = joined.get(name) ?? group
        joined.set(name, known)
        return known
      }
      const store = driver.deadLetters
      return {
        ...driver,
        publish: (messages) =>
          driver.publish(
            messages.map((message) =>
              message.destination._tag === "DeadLetters"
                ? { ...message, destination: { _tag: "DeadLetters", ...first(message.destination) } }
                : message
            )
          ),
        deadLetters: store && { ...store, read: (group, after) => store.read(first(group), after) }
      }
    }
  },
  {
    name: "begins a new group at the beginning, unasked",
    caughtBy: ["new-group"],
    mutate: (driver) => ({
      ...driver,
      declare: ({ topic }) => driver.declare({ topic, groups: [] }),
      subscribe: (options) => driver.subscribe({ ...options, replay: options.replay ?? "earliest" })
    })
  },
  {
    name: "takes no notice of replay",
    caughtBy: ["replay-old"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, replay: undefined })
    )
  },
  {
    name: "replays from the beginning when asked for a time",
    caughtBy: ["replay-old"],
    mutate: subscribing(
      () => ({}),
      (options) => ({ ...options, replay: options.replay && "earliest" })
    )
  },
  {
    name: "loses in silence what no group has asked for",
    caughtBy: ["without-group"],
    memory: { retain: 0 },
    mutate: (driver) => ({
      ...driver,
      publish: (messages) => Effect.map(driver.publish(messages), () => confirmed(messages))
    })
  },
  {
    name: "guesses that nothing waits",
    caughtBy: ["backlog"],
    mutate: (driver) => ({
      ...driver,
      backlog: () => Effect.succeed({ waiting: 0, delayed: 0, inFlight: 0, oldest: undefined })
    })
  },
  {
    name: "counts what is held as waiting",
    caughtBy: ["backlog"],
    mutate: (driver) => ({
      ...driver,
      backlog: (group) =>
        Effect.map(driver.backlog(group), (backlog) => ({
          ...backlog,
          waiting: (backlog.waiting ?? 0) + (backlog.inFlight ?? 0)
        }))
    })
  },
  {
    name: "keeps a group that was removed",
    caughtBy: ["list-groups"],
    mutate: (driver) => ({ ...driver, removeGroup: () => Effect.void })
  },
  {
    name: "begins a topic anew when it is declared again",
    caughtBy: ["declare-again"],
    mutate: (driver) => ({
      ...driver,
      declare: (topology) =>
        Effect.andThen(
          Effect.forEach(topology.groups, (group) => driver.removeGroup({ topic: topology.topic, group })),
          driver.declare(topology)
        )
    })
  },
  {
    name: "keeps duplicates although it says that it does not",
    caughtBy: ["dedupe"],
    memory: { dedupe: "1 hour" },
    mutate: (driver) => ({
      ...driver,
      publish: (messages) => Effect.flatMap(Effect.succeed(messages), (all) => driver.publish(all.map(anotherId)))
    })
  },
  {
    name: "drops duplicates although it says that it keeps them",
    caughtBy: ["dedupe"],
    memory: { dedupe: "1 hour" },
    mutate: (driver) => ({ ...driver, dedupe: "none" })
  },
  {
    name: "delivers dead letters",
    caughtBy: ["destinations", "exhausted"],
    mutate: publishing((message) =>
      message.destination._tag === "DeadLetters"
        ? { ...message, destination: { ...message.destination, _tag: "Group" } }
        : message
    )
  },
  {
    name: "sends what is for one group to all",
    caughtBy: ["destinations"],
    mutate: publishing((message) =>
      message.destination._tag === "Group"
        ? { ...message, destination: { ...message.destination, _tag: "Topic" } }
        : message
    )
  },
  {
    name: "moves a letter to all groups",
    caughtBy: ["replay"],
    mutate: letters(({ move }) => ({
      ...(move && {
        move: (group: Driver.Group, position: string, message: Driver.OutgoingMessage) =>
          move(group, position, { ...message, destination: { _tag: "Topic", topic: group.topic } })
      })
    }))
  },
  {
    name: "keeps the letters that it has moved",
    caughtBy: ["two-replays", "replay"],
    mutate: (driver) =>
      letters(() => ({
        move: (_, __, message) => Effect.map(driver.publish([message]), ([answer]) => answer ?? { _tag: "Gone" })
      }))(driver)
  },
  {
    name: "does not remove letters",
    caughtBy: ["purge"],
    mutate: letters(() => ({ remove: (_, positions) => Effect.succeed(positions.length) }))
  },
  {
    name: "loses letters with their group",
    caughtBy: ["purge"],
    mutate: (driver) => {
      const removed = new Set<string>()
      return letters((inner) => ({
        groups: (topic) => Effect.map(inner.groups(topic), (names) => names.filter((name) => !removed.has(name)))
      }))({
        ...driver,
        removeGroup: (group) =>
          Effect.andThen(
            Effect.sync(() => removed.add(group.group)),
            driver.removeGroup(group)
          )
      })
    }
  },
  {
    name: "says no to delay, and delivers at once when asked",
    caughtBy: ["refuses-delay"],
    says: lacks("delay"),
    mutate: saysNo(
      "delay",
      publishing((message) => ({ ...message, delay: undefined }))
    )
  },
  {
    name: "says no to priority, and takes no notice when asked",
    caughtBy: ["refuses-priority"],
    says: lacks("priority"),
    mutate: saysNo(
      "priority",
      publishing((message) => ({ ...message, priority: undefined }))
    )
  },
  {
    name: "says no to order, and subscribes all the same",
    caughtBy: ["refuses-order"],
    says: lacks("order"),
    mutate: saysNo("order", (driver) => driver)
  },
  {
    name: "says no to replay, and subscribes all the same",
    caughtBy: ["refuses-replay"],
    says: lacks("replay"),
    mutate: saysNo("replay", (driver) => driver)
  },
  {
    name: "says no to browse, and browses",
    caughtBy: ["declared", "refuses-browse"],
    says: lacks("browse"),
    mutate: saysNo("browse", (driver) => driver)
  },
  {
    name: "says that it can what it cannot",
    caughtBy: ["declared"],
    mutate: (driver) => ({ ...driver, abilities: { ...driver.abilities, results: "native" } })
  },
  {
    name: "shows what a transaction has not committed",
    caughtBy: ["rolled-back", "late-commit"],
    says: { transactions: { run: (effect) => effect, overlap: true } },
    mutate: (driver) => driver
  }
]
