/** Three servers of a test's own, each broker and controller, so that one can go and the others go on. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { kafka, knowsABroker, metadata } from "../../../scripts/services/kafka.ts"
import { ask } from "../../../scripts/services/probe.ts"
import * as Processes from "../../../scripts/services/process.ts"
import { need, run } from "../../../scripts/services/programs.ts"
import { host, type Process } from "../../../scripts/services/Service.ts"
import { folder, pickPort } from "../../../scripts/services/state.ts"

interface Node {
  readonly id: number
  readonly address: string
  /** In good order: it hands over what it leads. */
  readonly stop: Effect.Effect<void>
  readonly kill: Effect.Effect<void>
  readonly start: Effect.Effect<void>
}

export const cluster = Effect.gen(function* () {
  const data = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-kafka-"))),
    (data) => Effect.sync(() => rmSync(data, { recursive: true, force: true }))
  )
  const java = need({ command: "java", apt: "default-jre-headless" })
  const libraries = join(folder, "installed", kafka.name, "*")
  const ports: Array<{ readonly id: number; readonly broker: number; readonly controller: number }> = []
  for (const id of [1, 2, 3]) {
    ports.push(yield* Effect.promise(async () => ({ id, broker: await pickPort(), controller: await pickPort() })))
  }
  const voters = ports.map(({ controller, id }) => `${id}@${host}:${controller}`).join(",")
  const nodeOf = ({ broker, controller, id }: (typeof ports)[number]) =>
    Effect.gen(function* () {
      const config = join(data, `${id}.properties`)
      writeFileSync(
        config,
        `
process.roles=broker,controller
node.id=${id}
controller.quorum.voters=${voters}
listeners=PLAINTEXT://${host}:${broker},CONTROLLER://${host}:${controller}
advertised.listeners=PLAINTEXT://${host}:${broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=${join(data, `log-${id}`)}
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.num.partitions=4
offsets.topic.replication.factor=3
# Until it is over, what a killed server led has no leader.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
`
      )
      const java_ = (heap: string, ...args: ReadonlyArray<string>) => [heap, "-cp", libraries, ...args]
      yield* Effect.promise(() =>
        run(java, java_("-Xmx128m", "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", config))
      )
      const spec: Process = {
        name: `kafka-${id}`,
        command: java,
        args: java_("-Xmx400m", "kafka.Kafka", config),
        port: broker,
        ready: () => ask(broker, metadata, knowsABroker)
      }
      let pid: Processes.Pid | undefined
      const noted = (started: Processes.Pid) => {
        pid = started
      }
      const log = join(data, `${id}.out`)
      const end = (how: (process: Processes.Pid) => Promise<void>) =>
        Effect.promise(async () => pid && (await how(pid)))
      const node: Node = {
        id,
        address: `${host}:${broker}`,
        stop: end((process) => Processes.stop(process, "SIGTERM")),
        kill: end(Processes.kill),
        start: Effect.promise(() => Processes.start(spec, { cwd: data, log }, noted))
      }
      return yield* Effect.acquireRelease(Effect.succeed(node), () => node.kill)
    })
  const nodes = yield* Effect.forEach(ports, nodeOf)
  yield* Effect.forEach(nodes, (node) => node.start, { concurrency: "unbounded" })
  return nodes
})
