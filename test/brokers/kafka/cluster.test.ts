/** A cluster of three: leaders and coordinators move, and work goes on. */
import { assert, it } from "@effect/vitest"
import { ConnectionPool, findCoordinatorV6 } from "@platformatic/kafka"
import { Effect, Fiber, Layer, Schema } from "effect"
import { Consumer, Topic } from "millrace"
import { Kafka } from "millrace/kafka"
import { describeWith } from "../services.ts"
import { cluster } from "./cluster.ts"
import { fresh, until, untilEffect } from "./support.ts"

const keys = 40

/** The number of the server that coordinates the group. */
const coordinatorOf = (brokers: ReadonlyArray<string>, groupId: string) =>
  Effect.promise(async () => {
    const pool = new ConnectionPool("test")
    try {
      const servers = brokers
        .map((broker) => broker.split(":"))
        .map(([host = "", port]) => ({ host, port: Number(port) }))
      const connection = await pool.getFirstAvailable(servers)
      const { coordinators } = await findCoordinatorV6.api.async(connection, 0, [groupId])
      return coordinators[0]?.nodeId
    } finally {
      await pool.close()
    }
  })

describeWith("kafka", () => {
  it.live(
    "the server that coordinates a group is stopped or killed and comes back: the group goes on within 10 seconds",
    () =>
      Effect.gen(function* () {
        const nodes = yield* cluster
        const brokers = nodes.map(({ address }) => address)
        const layer = Kafka.layer({ brokers, createTopics: { partitions: 6, replication: 3 } })
        yield* Effect.scoped(losesNothing(nodes)).pipe(Effect.provide(Layer.fresh(layer)))
      }).pipe(Effect.scoped),
    300_000
  )
})

const losesNothing = (nodes: Effect.Success<typeof cluster>) =>
  Effect.gen(function* () {
    const topic = Topic.make(fresh(), {
      schema: Schema.Struct({ n: Schema.Number }),
      version: 1,
      key: ({ n }) => String(n % keys),
      groups: ["g"]
    })
    const coordinator = coordinatorOf(
      nodes.map(({ address }) => address),
      `${topic.name}..g`
    )
    const handled = new Set<number>()
    const last = new Map<number, number>()
    const disordered: Array<number> = []
    const handle = ({ n }: { readonly n: number }) =>
      Effect.sync(() => {
        if (!handled.has(n) && n < (last.get(n % keys) ?? -1)) disordered.push(n)
        last.set(n % keys, n)
        handled.add(n)
      })
    yield* Consumer.make(topic, handle, { group: "g", order: "key", concurrency: 16 })

    let published = 0
    let stopping = false
    // A publish that fails ends it, and the test.
    const publishOne = Effect.andThen(
      Effect.suspend(() => topic.publish({ n: published++ })),
      Effect.sleep("5 millis")
    )
    const publisher = yield* Effect.forkChild(Effect.repeat(publishOne, { until: () => stopping }))

    /** Of what is published from now on, messages of all keys are handled, so that every partition is read. */
    const goesOn = (what: string) =>
      Effect.gen(function* () {
        const since = performance.now()
        const from = published
        const seen = () => new Set([...handled].filter((n) => n >= from).map((n) => n % keys))
        yield* until(`${what}, all keys go on`, () => seen().size === keys, 10_000)
        return performance.now() - since
      })
    yield* until("it begins", () => handled.size > 200, 60_000)

    for (const how of ["stop", "kill"] as const) {
      const before = yield* coordinator
      const node = nodes.find(({ id }) => id === before)
      if (node === undefined) return assert.fail(`no server ${before}`)
      yield* node[how]
      const spent = yield* goesOn(`after ${how}`)
      yield* Effect.logInfo(`all keys go on ${Math.round(spent)} ms after ${how} of the coordinator`)
      assert.notStrictEqual(yield* coordinator, before)
      yield* node.start
      yield* goesOn(`after start`)
    }

    stopping = true
    yield* Fiber.join(publisher)
    yield* until("all that was confirmed is handled", () => handled.size === published, 30_000)
    yield* untilEffect(
      "the new coordinator has the progress",
      Effect.map(Kafka.lag({ topic: topic.name, group: "g" }), (partitions) => partitions.every(({ lag }) => lag === 0))
    )
    assert.deepStrictEqual(disordered, [])
  })
