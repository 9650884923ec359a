/** Apache Kafka, one node that is broker and controller (KRaft). Its jars come from Maven Central. */
import { randomBytes } from "node:crypto"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { ask } from "./probe.ts"
import { need, run } from "./programs.ts"
import { define, host, type Place, type Program } from "./Service.ts"

const java: Program = { command: "java", apt: "default-jre-headless" }
const maven: Program = { command: "mvn", apt: "maven" }
const openssl: Program = { command: "openssl", apt: "openssl" }
export const version = "4.1.1"

type Port = "broker" | "controller" | "tls" | "mtls" | "sasl" | "oauth"

/** Its key and its certificate, in one file. */
export const certificateOf = (data: string) => join(data, "certificate.pem")

/** Who may come in at the port `sasl`, by PLAIN. Users for SCRAM are made by those who need them. */
export const user = { username: "millrace", password: "secret" } as const

const listeners = (ports: Place<Port>["ports"]): string =>
  [
    `PLAINTEXT://${host}:${ports.broker}`,
    `TLS://${host}:${ports.tls}`,
    `MTLS://${host}:${ports.mtls}`,
    `SASL://${host}:${ports.sasl}`,
    `OAUTH://${host}:${ports.oauth}`
  ].join(",")

export const properties = ({ data, ports }: Place<Port>) => `
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@${host}:${ports.controller}
listeners=${listeners(ports)},CONTROLLER://${host}:${ports.controller}
advertised.listeners=${listeners(ports)}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,TLS:SSL,MTLS:SSL,SASL:SASL_SSL,OAUTH:SASL_SSL,CONTROLLER:PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location=${certificateOf(data)}
# A client is known by the server's own certificate.
listener.name.mtls.ssl.client.auth=required
listener.name.mtls.ssl.truststore.type=PEM
listener.name.mtls.ssl.truststore.location=${certificateOf(data)}.crt
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
# Tokens without a signature, as Kafka offers them for tests.
listener.name.oauth.sasl.enabled.mechanisms=OAUTHBEARER
listener.name.oauth.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="server";
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_${user.username}="${user.password}";
listener.name.sasl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
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
export const metadata = Buffer.from("00000011 0003 0004 00000001 0002 6d72 00000000 00".replaceAll(" ", ""), "hex")

/** The answer: length, correlation, throttle time, number of brokers. */
export const knowsABroker = (answer: Buffer): boolean => {
  if (answer.length < 16) return false
  if (answer.readInt32BE(12) < 1) throw new Error("it knows no broker yet")
  return true
}

/** One that vouches for itself. */
const makeCertificate = async (file: string): Promise<void> => {
  const subject = ["-subj", `/CN=${host}`, "-addext", `subjectAltName=IP:${host}`]
  const key = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650"]
  await run(need(openssl), ["req", ...key, ...subject, "-keyout", `${file}.key`, "-out", `${file}.crt`])
  writeFileSync(file, `${readFileSync(`${file}.key`, "utf8")}${readFileSync(`${file}.crt`, "utf8")}`)
}

export const kafka = define({
  name: "kafka",
  needs: [java, openssl],
  buildNeeds: [maven],
  ports: ["broker", "controller", "tls", "mtls", "sasl", "oauth"],
  isInstalled: (installed) => existsSync(join(installed, `kafka_2.13-${version}.jar`)),
  async install(installed) {
    console.log("fetching kafka with Maven")
    const pom = join(import.meta.dirname, "kafka.pom.xml")
    await run(need(maven), ["-B", "-q", "-f", pom, "dependency:copy-dependencies", `-DoutputDirectory=${installed}`])
  },
  async prepare(place) {
    const config = join(place.data, "server.properties")
    writeFileSync(config, properties(place))
    const certificate = certificateOf(place.data)
    if (!existsSync(certificate)) await makeCertificate(certificate)
    if (existsSync(join(place.data, "log/meta.properties"))) return
    const uuid = randomBytes(16)
    // One that began with a dash would be taken for an option.
    uuid[0] = 0
    const id = uuid.toString("base64url")
    const libraries = `${place.installed}/*`
    await run(need(java), ["-cp", libraries, "kafka.tools.StorageTool", "format", "-t", id, "-c", config])
  },
  processes: ({ data, installed, ports }) => [
    {
      name: "kafka",
      command: need(java),
      args: ["-Xmx1g", "-cp", `${installed}/*`, "kafka.Kafka", join(data, "server.properties")],
      port: ports.broker,
      ready: () => ask(ports.broker, metadata, knowsABroker)
    }
  ],
  urls: ({ broker, mtls, oauth, sasl, tls }) => ({
    bootstrap: `${host}:${broker}`,
    tls: `${host}:${tls}`,
    mtls: `${host}:${mtls}`,
    sasl: `${host}:${sasl}`,
    oauth: `${host}:${oauth}`
  }),
  env: () => ({})
})
