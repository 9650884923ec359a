/** Each server is there and speaks its protocol; it can be restarted, killed and asked by its own tools. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { ask, get, isTaken } from "../../scripts/services/probe.ts"
import { self } from "../../scripts/services/process.ts"
import type { NotedService } from "../../scripts/services/state.ts"
import { describeWith, service } from "./services.ts"

const portOf = (url: string): number => Number(/:(\d+)(\/.*)?$/.exec(url)?.[1])

const answer = (port: number, send: string | Uint8Array, enough: (answer: Buffer) => boolean) =>
  Effect.promise(() => ask(port, send, enough))

describe("the rule for servers that are missing", () => {
  const dead: NotedService = {
    state: "up",
    host: "127.0.0.1",
    ports: { redis: 1 },
    urls: {},
    env: {},
    processes: { redis: { pid: process.pid, began: "another process with this number", state: "up", log: "" } }
  }
  const required = (noted: Parameters<typeof service>[1], names: string) => {
    const found = service("redis", noted, names)
    return "missing" in found ? found.required : undefined
  }

  it("skipped, unless required", () => {
    assert.strictEqual(required({}, ""), false)
    assert.strictEqual(required({}, "kafka,nats"), false)
    assert.strictEqual(required({}, "kafka,redis"), true)
    assert.strictEqual(required({}, "all"), true)
  })

  it("a server that died is missing", () => {
    assert.strictEqual(required({ redis: dead }, ""), false)
    const alive = { ...dead, processes: { redis: { ...self(), state: "up" as const, log: "" } } }
    assert.strictEqual(required({ redis: alive }, ""), undefined)
    assert.strictEqual(required({ redis: { ...alive, state: "killed" } }, ""), false)
  })
})

describeWith("kafka", (kafka) => {
  it.live("answers which versions of its protocol it knows", () =>
    Effect.gen(function* () {
      const versions = Buffer.from("0000000a00120000000000070000", "hex")
      const bytes = yield* answer(portOf(kafka.urls.bootstrap), versions, (bytes) => bytes.length > 100)
      assert.strictEqual(bytes.readInt32BE(4), 7, "our correlation id")
      assert.strictEqual(bytes.readInt16BE(8), 0, "no error")
    })
  )
})

describeWith("nsq", (nsq) => {
  const refuses = (url: string) => answer(portOf(url), "  V2NONSENSE\n", (bytes) => bytes.includes("E_INVALID"))

  it.live("both nsqd answer, and nsqlookupd knows both", () =>
    Effect.gen(function* () {
      yield* refuses(nsq.urls.nsqd1)
      yield* refuses(nsq.urls.nsqd2)
      const nodes = yield* Effect.promise(() => get(portOf(nsq.urls.lookupd), "/nodes"))
      assert.include(nodes, `"tcp_port":${portOf(nsq.urls.nsqd1)},`)
      assert.include(nodes, `"tcp_port":${portOf(nsq.urls.nsqd2)},`)
    })
  )

  it.live("one nsqd can be killed, and comes back with the scope's end", () =>
    Effect.gen(function* () {
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* nsq.kill("nsqd2")
          assert.isFalse(yield* Effect.promise(() => isTaken(portOf(nsq.urls.nsqd2))))
          yield* refuses(nsq.urls.nsqd1)
        })
      )
      yield* refuses(nsq.urls.nsqd2)
    })
  )
})

describeWith("rabbitmq", (rabbitmq) => {
  it.live("begins an AMQP connection; its own tool sees its connections", () =>
    Effect.gen(function* () {
      const start = yield* answer(portOf(rabbitmq.urls.amqp), "AMQP\0\0\x09\x01", (bytes) => bytes.includes("RabbitMQ"))
      assert.strictEqual(start.readUInt8(0), 1, "a method frame")
      assert.match(yield* rabbitmq.exec(["rabbitmqctl", "list_users"]), /guest/)
    })
  )
})

describeWith("postgres", (postgres) => {
  it.live("answers whether it does TLS, and a query", () =>
    Effect.gen(function* () {
      const request = Buffer.from("0000000804d2162f", "hex")
      const bytes = yield* answer(portOf(postgres.urls.postgres), request, (bytes) => bytes.length > 0)
      assert.match(bytes.toString(), /^[NS]/)
      assert.match(yield* postgres.exec(["psql", "-Atc", "select 6 * 7"]), /^42$/m)
    })
  )
})

describeWith("redis", (redis) => {
  const port = portOf(redis.urls.redis)
  const command = (text: string) =>
    Effect.map(
      answer(port, `${text}\r\n`, (bytes) => bytes.toString().endsWith("\r\n")),
      String
    )

  it.live("keeps what it confirmed, over a restart and a kill", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* command("SET smoke 1"), "+OK\r\n")
      yield* redis.restart()
      assert.strictEqual(yield* command("INCR smoke"), ":2\r\n")
      yield* redis.kill()
      assert.isFalse(yield* Effect.promise(() => isTaken(port)))
      yield* redis.start
      assert.strictEqual(yield* command("INCR smoke"), ":3\r\n")
    })
  )
})

describeWith("nats", (nats) => {
  it.live("greets, with JetStream", () =>
    Effect.gen(function* () {
      const info = yield* answer(portOf(nats.urls.nats), "", (bytes) => bytes.includes("\r\n"))
      assert.match(info.toString(), /^INFO .*"jetstream":true/)
    })
  )
})
