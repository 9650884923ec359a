/** `compose.yaml` starts what `npm run services` starts: nobody has to run Docker to see where the two have parted. */
import { readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Redacted, Schema } from "effect"
import { Yaml } from "effect/encoding"
import { Settings } from "../../examples/orders/Settings.ts"
import { services as definitions } from "../../scripts/services/all.ts"
import { properties, version } from "../../scripts/services/kafka.ts"

const root = resolve(import.meta.dirname, "../..")
const text = (file: string) => readFileSync(join(root, file), "utf8")

const Compose = Schema.Struct({
  services: Schema.Record(
    Schema.String,
    Schema.Struct({
      image: Schema.String,
      command: Schema.optionalKey(Schema.String),
      hostname: Schema.optionalKey(Schema.String),
      ports: Schema.Array(Schema.String),
      environment: Schema.optionalKey(Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Number]))),
      volumes: Schema.optionalKey(Schema.Array(Schema.String)),
      depends_on: Schema.optionalKey(Schema.Array(Schema.String))
    })
  ),
  volumes: Schema.Record(Schema.String, Schema.Null)
})

describe("compose.yaml", () => {
  // What this does not know, a misspelt key among it, is refused.
  const compose = Schema.decodeUnknownSync(Compose, { onExcessProperty: "error" })(Yaml.parse(text("compose.yaml")))
  const { services, volumes } = compose
  const names = Object.keys(services)
  const portsOf = (name: string) => services[name]?.ports.map((port) => Number(port.split(":")[1])) ?? []
  const flagsOf = (line: string): Record<string, string> =>
    Object.fromEntries([...line.matchAll(/(?<=^|\s)--?([\w-]+)=(\S+)/g)].map(([, name, value]) => [name, value]))

  it("has the servers of `npm run services`, each version named, on ports of this machine alone", () => {
    assert.deepStrictEqual(
      names
        .map((name) => (name.startsWith("nsq") ? "nsq" : name))
        .filter((name, at, all) => all.indexOf(name) === at)
        .toSorted(),
      Object.keys(definitions).toSorted()
    )
    const ports = Object.values(services).flatMap(({ ports }) => ports)
    for (const port of ports) assert.match(port, /^127\.0\.0\.1:(\d+):\1$/)
    assert.strictEqual(new Set(ports).size, ports.length)
    for (const { image } of Object.values(services)) assert.match(image, /^[\w/]+:v?\d/)
    const used = Object.values(services).flatMap(({ volumes = [] }) =>
      volumes.map((volume) => volume.split(":")[0] ?? "")
    )
    assert.sameMembers(used, Object.keys(volumes))
    for (const { depends_on = [] } of Object.values(services)) assert.includeMembers(names, [...depends_on])
  })

  it("has the same Kafka with the same settings", () => {
    const { environment = {}, image } = services.kafka ?? assert.fail("no Kafka")
    assert.strictEqual(image, `apache/kafka:${version}`)
    const theirs = Object.fromEntries(
      Object.entries(environment).map(([name, value]) => [
        name
          .replace(/^KAFKA_/, "")
          .toLowerCase()
          .replaceAll("_", "."),
        String(value)
      ])
    )
    const place = {
      data: "/data",
      installed: "/kafka",
      ports: { broker: 9092, controller: 9093, tls: 9094, mtls: 9095, sasl: 9096, oauth: 9097 }
    }
    const ours = Object.fromEntries(
      properties(place)
        .split("\n")
        .filter((line) => /^\w/.test(line))
        .map((line) => line.split(/=(.*)/).slice(0, 2))
    )
    // Addresses inside a container are others. How soon the dead are missed, that little is kept, and the doors with
    // certificates and passwords are for tests.
    const own =
      /^(listeners|advertised\.listeners|controller\.quorum\.voters|log\.dirs)$|session\.timeout|heartbeat|num\.partitions|ssl|sasl|protocol\.map|^inter/
    const common = (settings: Record<string, unknown>) =>
      Object.fromEntries(Object.entries(settings).filter(([name]) => !own.test(name)))
    assert.deepStrictEqual(common(theirs), common(ours))
    const listeners = new URL(String(theirs["advertised.listeners"]).toLowerCase().replace("plaintext", "http"))
    assert.deepStrictEqual(portsOf("kafka"), [Number(listeners.port)])
  })

  it("has the same NSQ with the same flags", () => {
    const [, inModule] = /nsqio\/nsq (v[\d.]+)/.exec(text("scripts/services/nsq/go.mod")) ?? []
    const ports = {
      lookupdTcp: 4160,
      lookupdHttp: 4161,
      nsqd1Tcp: 4150,
      nsqd1Http: 4151,
      nsqd2Tcp: 4250,
      nsqd2Http: 4251
    }
    const ours = definitions.nsq.processes({ data: "/data", installed: "/nsq", ports })
    for (const { args, name } of ours) {
      const { command = "", image } = services[name] ?? assert.fail(`no ${name}`)
      assert.strictEqual(image, `nsqio/nsq:${inModule}`)
      const flags = flagsOf(command)
      const expected = flagsOf(args.join(" "))
      const addresses = ["tcp-address", "http-address", "lookupd-tcp-address", "data-path"]
      const settings = (flags: Record<string, string>) =>
        Object.entries(flags)
          .filter(([flag]) => !addresses.includes(flag))
          .toSorted()
      // nsqlookupd says its own name to nobody who could not reach it.
      assert.deepStrictEqual(settings(flags), name === "nsqlookupd" ? [] : settings(expected), name)
      const port = (address = "") => Number(address.split(":")[1])
      const listens = name === "nsqlookupd" ? [4160, 4161] : [port(flags["tcp-address"]), port(flags["http-address"])]
      assert.deepStrictEqual(portsOf(name), listens, name)
      assert.deepStrictEqual([port(expected["tcp-address"]), port(expected["http-address"])], listens, name)
    }
  })

  it.effect("is where examples/orders looks when nothing else is said", () =>
    Effect.gen(function* () {
      const { kafka, nsq, rabbitmq } = yield* Settings
      assert.deepStrictEqual(
        kafka.map((server) => Number(server.split(":")[1])),
        portsOf("kafka")
      )
      assert.deepStrictEqual([Number(new URL(Redacted.value(rabbitmq)).port)], portsOf("rabbitmq"))
      assert.includeMembers(
        portsOf("nsqlookupd"),
        nsq.map((url) => Number(new URL(url).port))
      )
    }).pipe(Effect.provide(Settings.layer), Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({}))))
  )
})
