/**
 * The driver: its parts, opened together and closed in order.
 */

import { hostname } from "node:os"
import type { Done } from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import type * as Reactivity from "effect/reactivity/Reactivity"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import type { SqlClient } from "effect/sql/SqlClient"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Delivery, Driver } from "../../../messaging/Driver.ts"
import { backlogOf } from "./Backlog.ts"
import { makeClient } from "./Client.ts"
import { Database } from "./Database.ts"
import { deadLetters, reading } from "./DeadLetters.ts"
import type { About } from "./Failure.ts"
import { fromCause, isBusy, locked, moved, rejected, system } from "./Failure.ts"
import { FileClock } from "./FileClock.ts"
import { migrate, version } from "./Migrations.ts"
import type { BrokerSettings } from "./Options.ts"
import { publish, within } from "./Publish.ts"
import { Pump } from "./Pump.ts"
import { fromText } from "./Rows.ts"
import { Store } from "./Store.ts"
import { Subscription } from "./Subscription.ts"
import { ensureGroup, ensureGroups, groupsOf, removeGroup, setRetention } from "./Topology.ts"
import { clearQueue, sweep, upkeep } from "./Upkeep.ts"
import { Watcher } from "./Watcher.ts"

const opening: About = { operation: "open" }

/** Turns of the tick between two upkeeps. */
const ticksPerUpkeep = 30

/** Tries again for as long as another process has the file locked: several that start at once migrate one after the other. */
const whileBusy = <A>({ filename, lockTimeout }: BrokerSettings, attempt: () => A): Effect.Effect<A, BrokerError> =>
  Effect.gen(function* () {
    const clock = yield* Clock.Clock
    const start = clock.monotonicTimeNanosUnsafe()
    while (true) {
      try {
        return attempt()
      } catch (cause) {
        const waited = Number(clock.monotonicTimeNanosUnsafe() - start) / 1e6
        if (!isBusy(cause)) return yield* Effect.fail(fromCause(opening, filename, cause))
        if (waited > lockTimeout) return yield* Effect.fail(locked(opening, filename, waited, cause))
      }
      yield* Effect.sleep(Duration.millis(2 + Math.random() * 10))
    }
  })

const openDatabase = (settings: BrokerSettings): Effect.Effect<Database, BrokerError, Scope.Scope> =>
  Effect.acquireRelease(
    whileBusy(settings, () => new Database(settings.filename, settings.synchronous)),
    (database) => Effect.sync(() => database.close()),
    { interruptible: true }
  )

export interface Opened {
  readonly driver: Driver
  readonly sql: SqlClient
}

export const open = (
  settings: BrokerSettings
): Effect.Effect<Opened, BrokerError, Scope.Scope | Reactivity.Reactivity> =>
  Effect.gen(function* () {
    const { dedupeWindow, filename, maxMessageBytes, pollInterval } = settings
    const clock = new FileClock(yield* Clock.Clock)
    const database = yield* openDatabase(settings)
    const found = yield* whileBusy(settings, () => migrate(database, clock.wall(), clock.monotonic()))
    if (found > version) {
      return yield* Effect.fail(
        rejected(
          opening,
          "Incompatible",
          `${filename} was written by a newer version of Millrace (tables of version ${found}, this one knows ${version}). Upgrade this process, or give it a file of its own.`
        )
      )
    }
    const clientDatabase = yield* openDatabase(settings)
    const lock = yield* Semaphore.make(1)
    const sql = yield* makeClient(clientDatabase, lock, settings)
    const store = new Store(database, clock, { dedupeWindow })
    const context = yield* Effect.context<never>()
    const pump = new Pump(store, lock, context, {
      lockTimeout: settings.lockTimeout,
      transaction: sql.transactionService
    })
    const subscriptions = new Set<Subscription>()
    const watcher = new Watcher(
      database,
      () => pump.hasWaiting,
      () => pump.wake()
    )

    const tick = Effect.suspend(() => {
      watcher.poll()
      if (pump.hasWaiting && !database.isInPlace()) pump.failWaiting((about) => moved(about, filename))
      if (subscriptions.size === 0) return Effect.void
      return Effect.gen(function* () {
        if (clock.isBehind()) yield* Effect.ignore(pump.request({ operation: "clock" }, { weight: 1 }, () => {}))
        pump.ring()
        for (const subscription of subscriptions) yield* subscription.expire()
        yield* sweep(pump)
      })
    })

    yield* Effect.addFinalizer(() =>
      Effect.gen(function* () {
        watcher.close()
        for (const subscription of [...subscriptions]) yield* subscription.close
        yield* pump.close
      })
    )
    let lastDefect = ""
    /** What goes wrong with the file in between must not end what looks after it. */
    const again = (effect: Effect.Effect<void>) =>
      Effect.catchDefect(effect, (defect) => {
        const text = String(defect)
        if (text === lastDefect) return Effect.void
        lastDefect = text
        return Effect.logWarning(`SQLite: ${filename} could not be looked after, which is tried again`, defect)
      })
    const pause = Effect.sleep(Duration.millis(pollInterval))
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(pause, again(tick))))
    // Apart from the other, since it may have much to delete.
    const rest = Effect.sleep(Duration.millis(pollInterval * ticksPerUpkeep))
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(again(upkeep(pump, dedupeWindow)), rest)))
    if (settings.retention.size > 0) {
      yield* pump.request({ operation: "retention" }, { weight: settings.retention.size }, (store) => {
        for (const [topic, millis] of settings.retention) setRetention(store, topic, millis)
      })
    }

    const inTransaction = new Store(clientDatabase, clock, { dedupeWindow })
    const driver: Driver = {
      system,
      abilities: {
        delay: "native",
        priority: "native",
        order: "native",
        replay: "native",
        browse: "native",
        results: "none"
      },
      dedupe: dedupeWindow === undefined ? "none" : { window: Duration.millis(dedupeWindow) },
      maxMessageBytes,
      inTransactions: true,
      declare: ({ groups, topic }) => {
        const about = { operation: "declare", topic }
        const ensure = (store: Store) => {
          store.topic(topic)
          ensureGroups(store, topic, groups)
        }
        return Effect.withFiber((fiber) =>
          Context.getOrUndefined(fiber.context, sql.transactionService) === undefined
            ? pump.request(about, { weight: 1 + groups.length }, ensure)
            : Effect.as(within({ pump, sql, inTransaction }, about, ensure), "provisional" as const)
        )
      },
      publish: publish({ pump, sql, inTransaction, maxMessageBytes }),
      subscribe: (options) => {
        const about = { operation: "subscribe", topic: options.topic }
        const ensured = pump.request(about, { weight: 8 }, (store) =>
          ensureGroup(store, options.topic, options.group, options.replay)
        )
        return pump.outsideTransaction(about, ensured).pipe(
          Effect.flatMap((queue) =>
            Effect.acquireRelease(
              Effect.gen(function* () {
                const losses = yield* Queue.unbounded<ReadonlyArray<Delivery>, Done>()
                const subscription = new Subscription(pump, options, queue, `${hostname()}:${process.pid}`, losses)
                subscriptions.add(subscription)
                return subscription
              }),
              (subscription) =>
                Effect.andThen(
                  subscription.close,
                  Effect.sync(() => subscriptions.delete(subscription))
                )
            )
          )
        )
      },
      backlog: (group) => reading(pump, { operation: "backlog", topic: group.topic }, () => backlogOf(store, group)),
      groups: (topic) => reading(pump, { operation: "groups", topic }, () => groupsOf(store, topic).map(fromText)),
      removeGroup: ({ group, topic }) => {
        const about = { operation: "removeGroup", topic }
        const removed = pump.request(
          about,
          { weight: 8 },
          (store) => removeGroup(store, topic, group),
          // A consumer that still waits for it makes it anew.
          (queue) => pump.wake(queue ?? -1)
        )
        return Effect.flatMap(pump.outsideTransaction(about, removed), (queue) =>
          // It is gone; should this be interrupted, the next upkeep goes on with what is left of it.
          queue === undefined ? Effect.void : clearQueue(pump, queue)
        )
      },
      deadLetters: deadLetters(pump, maxMessageBytes)
    }
    return { driver, sql }
  })
