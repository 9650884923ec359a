/** The contestants of the SQLite benchmarks. Each counts what it has handled, and adds up the numbers in the payloads. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { performance } from "node:perf_hooks"
import { DatabaseSync } from "node:sqlite"
import BetterSqlite3 from "better-sqlite3"
import { Context, Deferred, Effect, Fiber, Layer, Schema, Scope } from "effect"
import { PersistedQueue } from "effect/persistence"
import { Consumer, Topic } from "millrace"
import { Sqlite, SqliteClient } from "millrace/sqlite"
import * as Plainjob from "plainjob"
import { Broker } from "../src/messaging/Broker.ts"
import type { Delivery, Driver, OutgoingMessage, Subscription } from "../src/messaging/Driver.ts"
import type { Contestant, Sample } from "./harness.ts"
import { verify } from "./harness.ts"

const bytes = 200

/** A payload of 200 bytes that carries a number. */
const bodyOf = (i: number): Uint8Array => {
  const body = new Uint8Array(bytes).fill(65)
  new DataView(body.buffer).setUint32(0, i)
  return body
}
const numberIn = (body: Uint8Array): number => new DataView(body.buffer, body.byteOffset).getUint32(0)

/** The same as a JSON value, for those that keep text. */
const padding = "A".repeat(bytes - 30)
const jsonOf = (i: number) => ({ i, padding })
const Value = Schema.Struct({ i: Schema.Number, padding: Schema.String })

const rate = (messages: number, start: number): Sample => ({
  "messages/s": (messages * 1000) / (performance.now() - start)
})

const median = (numbers: ReadonlyArray<number>): number =>
  numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? Number.NaN

/** Runs with a file in a folder of its own. */
const withFile = async (body: (filename: string) => Promise<Sample>): Promise<Sample> => {
  const folder = mkdtempSync(join(tmpdir(), "millrace-bench-"))
  try {
    return await body(join(folder, "bench.db"))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const run = <A>(effect: Effect.Effect<A, unknown, never>): Promise<A> => Effect.runPromise(Effect.orDie(effect))

const message = (i: number): OutgoingMessage => ({
  destination: { _tag: "Topic", topic: "bench" },
  envelope: {
    id: `message-${i}`,
    topic: "bench",
    source: "bench",
    key: undefined,
    version: 1,
    timestamp: Date.now(),
    contentType: "application/octet-stream",
    attempt: 1,
    traceparent: undefined,
    tracestate: undefined,
    correlationId: undefined,
    headers: {},
    history: undefined,
    death: undefined,
    replays: 0
  },
  body: bodyOf(i)
})

const openDriver = (filename: string) =>
  Effect.map(Layer.build(Sqlite.layer({ filename })), (context) => Context.get(context, Broker))

const subscribe = (driver: Driver) =>
  driver.subscribe({ topic: "bench", group: "bench", credit: 1_000, lease: 60_000, order: "none" })

const acknowledge = (subscription: Subscription, deliveries: ReadonlyArray<Delivery>) =>
  subscription.settle(deliveries.map((delivery) => ({ _tag: "Acknowledge", delivery })))

const sumOf = (deliveries: ReadonlyArray<Delivery>): number =>
  deliveries.reduce((sum, delivery) => sum + numberIn(delivery.message.body), 0)

/** Numbers below `total`, shared by as many workers. */
const shared = <E, R>(workers: number, total: number, each: (i: number) => Effect.Effect<unknown, E, R>) => {
  let next = 0
  const worker = Effect.gen(function* () {
    while (next < total) yield* each(next++)
  })
  return Effect.all(
    Array.from({ length: workers }, () => worker),
    { concurrency: "unbounded", discard: true }
  )
}

const Values = Topic.make("bench", { schema: Value, version: 1, groups: ["bench"] })

/** The whole way: encoded by a schema, published, taken, decoded, handled in a slot of its own, acknowledged. */
export const consumer = {
  cycle: (publishers: number, messages: number, order?: "key"): Contestant => ({
    name: "millrace",
    measure: () =>
      withFile((filename) =>
        run(
          Effect.gen(function* () {
            const done = yield* Deferred.make<void>()
            let count = 0
            let sum = 0
            yield* Consumer.make(
              Values,
              ({ i }) =>
                Effect.sync(() => {
                  sum += i
                  if (++count === messages) Deferred.doneUnsafe(done, Effect.void)
                }),
              { group: "bench", order, concurrency: 64, prefetch: 1_000 }
            )
            const start = performance.now()
            yield* shared(publishers, messages, (i) => Values.publish(jsonOf(i), { key: `key ${i % 1_000}` }))
            yield* Deferred.await(done)
            verify(sum, messages)
            return rate(messages, start)
          }).pipe(Effect.scoped, Effect.provide(Sqlite.layer({ filename })))
        )
      )
  }),
  latency: (times: number): Contestant => ({
    name: "millrace",
    measure: () =>
      withFile((filename) =>
        run(
          Effect.gen(function* () {
            let handled: (at: number) => void = () => {}
            yield* Consumer.make(Values, () => Effect.sync(() => handled(performance.now())), { group: "bench" })
            const taken: Array<number> = []
            for (let i = 0; i < times; i++) {
              yield* Effect.sleep("3 millis")
              const arrival = new Promise<number>((resolve) => {
                handled = resolve
              })
              const start = performance.now()
              yield* Values.publish(jsonOf(i))
              taken.push((yield* Effect.promise(() => arrival)) - start)
            }
            return { ms: median(taken) }
          }).pipe(Effect.scoped, Effect.provide(Sqlite.layer({ filename })))
        )
      )
  })
}

/** The driver alone. */
export const millrace = {
  cycle: (publishers: number, messages: number): Contestant => ({
    name: "millrace",
    measure: () =>
      withFile((filename) =>
        run(
          Effect.scoped(
            Effect.gen(function* () {
              const driver = yield* openDriver(filename)
              const subscription = yield* subscribe(driver)
              const start = performance.now()
              const consumer = yield* Effect.forkChild(
                Effect.gen(function* () {
                  let sum = 0
                  for (let count = 0; count < messages; ) {
                    const taken = yield* subscription.take(256, 1_000_000)
                    count += taken.length
                    sum += sumOf(taken)
                    yield* acknowledge(subscription, taken)
                  }
                  return sum
                })
              )
              yield* shared(publishers, messages, (i) => driver.publish([message(i)]))
              verify(yield* Fiber.join(consumer), messages)
              return rate(messages, start)
            })
          )
        )
      )
  }),
  latency: (times: number): Contestant => ({
    name: "millrace",
    measure: () =>
      withFile((filename) =>
        run(
          Effect.scoped(
            Effect.gen(function* () {
              const driver = yield* openDriver(filename)
              const subscription = yield* subscribe(driver)
              const taken: Array<number> = []
              for (let i = 0; i < times; i++) {
                const taking = yield* Effect.forkChild(
                  Effect.map(subscription.take(1, 1_000), (deliveries) => [deliveries, performance.now()] as const),
                  { startImmediately: true }
                )
                yield* Effect.sleep("3 millis")
                const start = performance.now()
                yield* driver.publish([message(i)])
                const [deliveries, end] = yield* Fiber.join(taking)
                taken.push(end - start)
                yield* acknowledge(subscription, deliveries)
              }
              return { ms: median(taken) }
            })
          )
        )
      )
  })
}

/** A backlog that is there for all rounds: what one takes from it is published again. */
const backlogs = new Map<number, Promise<{ readonly driver: Driver; readonly subscription: Subscription }>>()

const openBacklog = (waiting: number) => {
  const folder = mkdtempSync(join(tmpdir(), "millrace-bench-"))
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }))
  // Open until the process ends.
  const scope = Scope.makeUnsafe()
  const opened = Effect.gen(function* () {
    const driver = yield* openDriver(join(folder, "bench.db"))
    const subscription = yield* subscribe(driver)
    for (let i = 0; i < waiting; i += 5_000) {
      yield* driver.publish(Array.from({ length: 5_000 }, (_, j) => message(i + j)))
    }
    return { driver, subscription }
  })
  return run(Scope.provide(opened, scope))
}

export const backlog = (name: string, waiting: number, messages: number): Contestant => ({
  name,
  measure: async () => {
    const opened = backlogs.get(waiting) ?? openBacklog(waiting)
    backlogs.set(waiting, opened)
    const { driver, subscription } = await opened
    return run(
      Effect.gen(function* () {
        const start = performance.now()
        const again: Array<Delivery> = []
        while (again.length < messages) {
          const taken = yield* subscription.take(100, 1_000_000)
          again.push(...taken)
          yield* acknowledge(subscription, taken)
        }
        const spent = performance.now() - start
        for (let i = 0; i < again.length; i += 5_000) {
          yield* driver.publish(again.slice(i, i + 5_000).map((delivery) => message(numberIn(delivery.message.body))))
        }
        return { "us/message": (spent * 1000) / messages }
      })
    )
  }
})

/** What one would write by hand: a small table, prepared statements, a transaction for each step of each batch. */
export const rawStatements = (batch: number, messages: number): Contestant => ({
  name: `raw statements, batches of ${batch}`,
  measure: () =>
    withFile(async (filename) => {
      const db = new DatabaseSync(filename)
      db.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384")
      db.exec(`CREATE TABLE message (id INTEGER PRIMARY KEY, owner INTEGER, body BLOB NOT NULL);
        CREATE INDEX ready ON message (id) WHERE owner IS NULL`)
      const begin = db.prepare("BEGIN IMMEDIATE")
      const commit = db.prepare("COMMIT")
      const insert = db.prepare("INSERT INTO message (body) VALUES (?)")
      const claim = db.prepare(
        `UPDATE message SET owner = 1 WHERE id IN (SELECT id FROM message WHERE owner IS NULL ORDER BY id LIMIT ?)
         RETURNING id, body`
      )
      const remove = db.prepare("DELETE FROM message WHERE id = ? AND owner = 1")
      const start = performance.now()
      let sum = 0
      for (let i = 0; i < messages; i += batch) {
        begin.run()
        for (let j = 0; j < batch; j++) insert.run(bodyOf(i + j))
        commit.run()
        begin.run()
        const claimed = claim.all(batch)
        commit.run()
        begin.run()
        for (const { body, id } of claimed) {
          if (!(body instanceof Uint8Array) || typeof id !== "number") throw new Error("no such row was written")
          sum += numberIn(body)
          if (remove.run(id).changes !== 1) throw new Error("not removed")
        }
        commit.run()
      }
      verify(sum, messages)
      const sample = rate(messages, start)
      db.close()
      return sample
    })
})

export const persistedQueue = {
  cycle: (publishers: number, messages: number): Contestant => ({
    name: "Effect PersistedQueue",
    measure: () =>
      withFile((filename) =>
        run(
          Effect.scoped(
            Effect.gen(function* () {
              const context = yield* Layer.build(layerPersistedQueue(filename))
              const queue = yield* Effect.provideContext(PersistedQueue.make({ name: "bench", schema: Value }), context)
              const start = performance.now()
              let sum = 0
              const takers = yield* Effect.forkChild(
                shared(16, messages, () =>
                  queue.take(({ i }) =>
                    Effect.sync(() => {
                      sum += i
                    })
                  )
                )
              )
              yield* shared(publishers, messages, (i) => queue.offer(jsonOf(i)))
              yield* Fiber.join(takers)
              verify(sum, messages)
              return rate(messages, start)
            })
          )
        )
      )
  }),
  latency: (times: number): Contestant => ({
    name: "Effect PersistedQueue",
    measure: () =>
      withFile((filename) =>
        run(
          Effect.scoped(
            Effect.gen(function* () {
              const context = yield* Layer.build(layerPersistedQueue(filename))
              const queue = yield* Effect.provideContext(PersistedQueue.make({ name: "bench", schema: Value }), context)
              const taken: Array<number> = []
              for (let i = 0; i < times; i++) {
                const handled = yield* Deferred.make<number>()
                yield* Effect.forkChild(
                  queue.take(() => Effect.asVoid(Deferred.succeed(handled, performance.now()))),
                  { startImmediately: true }
                )
                yield* Effect.sleep("3 millis")
                const start = performance.now()
                yield* queue.offer(jsonOf(i))
                taken.push((yield* Deferred.await(handled)) - start)
                yield* Effect.sleep("3 millis")
              }
              return { ms: median(taken) }
            })
          )
        )
      )
  })
}

const layerPersistedQueue = (filename: string) =>
  PersistedQueue.layer.pipe(
    Layer.provide(PersistedQueue.layerStoreSql()),
    Layer.provide(SqliteClient.layer({ filename }))
  )

const silent = { error() {}, warn() {}, info() {}, debug() {} }

/** Its publishers are loops that give way to the others after each message. */
const loops = (count: number, messages: number, publish: (i: number) => unknown): Promise<unknown> => {
  let next = 0
  const loop = async () => {
    while (next < messages) {
      await publish(next++)
      await new Promise((resume) => setImmediate(resume))
    }
  }
  return Promise.all(Array.from({ length: count }, loop))
}

export const plainjob = (publishers: number, messages: number): Contestant => ({
  name: "plainjob",
  measure: () =>
    withFile(async (filename) => {
      const db = new BetterSqlite3(filename)
      const queue = Plainjob.defineQueue({ connection: Plainjob.better(db), logger: silent })
      db.pragma("synchronous = FULL")
      let sum = 0
      let count = 0
      const start = performance.now()
      const done = new Promise<void>((resume) => {
        const worker = Plainjob.defineWorker(
          "bench",
          (job) => {
            sum += (JSON.parse(job.data) as { readonly i: number }).i
            if (++count === messages) void worker.stop().then(resume)
          },
          { queue, logger: silent, pollIntervall: 1 }
        )
        void worker.start()
      })
      await loops(publishers, messages, (i) => queue.add("bench", jsonOf(i)))
      await done
      verify(sum, messages)
      const sample = rate(messages, start)
      queue.close()
      db.close()
      return sample
    })
})
