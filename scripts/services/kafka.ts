/** Apache Kafka, one node that is broker and controller (KRaft). Its jars come from Maven Central. */
import { randomBytes } from "node:crypto"
import { existsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { ask } from "./probe.ts"
import { need, run } from "./programs.ts"
import { define, host, type Place, type Program } from "./Service.ts"

const java: Program = { command: "java", apt: "default-jre-headless" }
const maven: Program = { command: "mvn", apt: "maven" }
export const version = "4.1.1"

export const properties = ({ data, ports }: Place<"broker" | "controller">) => `
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@${host}:${ports.controller}
listeners=PLAINTEXT://${host}:${ports.broker},CONTROLLER://${host}:${ports.controller}
advertised.listeners=PLAINTEXT://${host}:${ports.broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=${join(data, "log")}
# Until it is over, a node that was killed cannot come back.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# A consumer that was killed is missed after this time, so that tests need not wait for 45 seconds.
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=6000
group.consumer.heartbeat.interval.ms=2000
group.consumer.min.heartbeat.interval.ms=1000
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
`

/** A request of Metadata, version 4, that asks for no topic: length, key, version, correlation, client, topics, create. */
const metadata = Buffer.from("00000011 0003 0004 00000001 0002 6d72 00000000 00".replaceAll(" ", ""), "hex")

/** The answer: length, correlation, throttle time, number of brokers. */
const knowsABroker = (answer: Buffer): boolean => {
  if (answer.length < 16) return false
  if (answer.readInt32BE(12) < 1) throw new Error("it knows no broker yet")
  return true
}

export const kafka = define({
  name: "kafka",
  needs: [java],
  buildNeeds: [maven],
  ports: ["broker", "controller"],
  isInstalled: (installed) => existsSync(join(installed, `kafka_2.13-${version}.jar`)),
  async install(installed) {
    console.log("fetching kafka with Maven")
    const pom = join(import.meta.dirname, "kafka.pom.xml")
    await run(need(maven), ["-B", "-q", "-f", pom, "dependency:copy-dependencies", `-DoutputDirectory=${installed}`])
  },
  async prepare(place) {
    const config = join(place.data, "server.properties")
    writeFileSync(config, properties(place))
    if (existsSync(join(place.data, "log/meta.properties"))) return
    const id = randomBytes(16).toString("base64url")
    const libraries = `${place.installed}/*`
    await run(need(java), ["-cp", libraries, "kafka.tools.StorageTool", "format", "-t", id, "-c", config])
  },
  processes: ({ data, installed, ports }) => [
    {
      name: "kafka",
      command: need(java),
      args: ["-Xmx512m", "-cp", `${installed}/*`, "kafka.Kafka", join(data, "server.properties")],
      port: ports.broker,
      ready: () => ask(ports.broker, metadata, knowsABroker)
    }
  ],
  urls: ({ broker }) => ({ bootstrap: `${host}:${broker}` }),
  env: () => ({})
})
