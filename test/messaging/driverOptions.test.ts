/** What JavaScript callers and configuration may hand to the layer of a driver: each wrong option is named, and nothing throws. */
import { createServer, type Server } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer } from "effect"
import { Broker } from "millrace"
import { Kafka } from "millrace/kafka"
import { Memory } from "millrace/memory"
import { Nsq } from "millrace/nsq"
import { RabbitMq } from "millrace/rabbitmq"
import { Sqlite } from "millrace/sqlite"

type Options = Readonly<Record<string, unknown>>

interface Driver {
  /** The layer by options of any kind. */
  readonly layer: (options: Options) => Layer.Layer<Broker.Broker, unknown>
  /** Options that are right, of servers that are not there. */
  readonly valid: Options
  readonly names: ReadonlyArray<string>
}

/** The types of the layers say what is right; here they are handed what is not. */
const anyOptions = (layer: unknown): Driver["layer"] => layer as Driver["layer"]

const drivers: Readonly<Record<string, Driver>> = {
  memory: { layer: anyOptions(Memory.layer), valid: {}, names: ["store", "dedupe", "maxMessageBytes", "retain"] },
  sqlite: {
    layer: anyOptions(Sqlite.layer),
    valid: { filename: "no-such-folder/file.db" },
    names: ["filename", "synchronous", "lockTimeout", "pollInterval", "dedupeWindow", "maxMessageBytes", "retention"]
  },
  kafka: {
    layer: anyOptions(Kafka.layer),
    valid: { brokers: ["127.0.0.1:1"], connectTimeout: 10 },
    names: [
      ...["brokers", "address", "clientId", "createTopics", "compression", "linger", "batchBytes", "bufferBytes"],
      ...["maxMessageBytes", "patience", "maxUncommitted", "commitInterval", "heartbeat", "revokeTimeout"],
      ...["connectTimeout", "tls", "sasl"]
    ]
  },
  nsq: {
    layer: anyOptions(Nsq.layer),
    valid: { nsqd: ["127.0.0.1:1"], connectTimeout: 10 },
    names: [
      ...["nsqd", "lookupd", "lookupInterval", "heartbeat", "connectTimeout", "waitForConnection", "maxUnconfirmed"],
      ...["maxFrameBytes", "maxRequeueDelay", "outputBufferTimeout", "tls", "authSecret"]
    ]
  },
  rabbitmq: {
    layer: anyOptions(RabbitMq.layer),
    valid: { url: "amqp://127.0.0.1:1", connectTimeout: 10 },
    names: [
      ...["url", "queueType", "order", "priorities", "heartbeat", "connectTimeout", "waitForConnection"],
      ...["maxUnconfirmed", "maxUnconfirmedBytes", "maxMessageBytes", "acknowledgementTimeout", "socket"]
    ]
  }
}

const bare: unknown = Object.create(null)
const wrong: ReadonlyArray<unknown> = [
  // As the name of a file, the text is one that cannot be made.
  ...[null, false, true, Number.NaN, -1, 0, 1.5, 10n, "", "no-such-folder/x", Symbol("x"), () => 1],
  ...[[], [null], [1], [{}], [undefined], {}, { tcp: 1 }, bare, [bare], new Date(Number.NaN)]
]

describe.each(Object.entries(drivers))("%s", (_, { layer, names, valid }) => {
  it.live.each(names)("%s", (name) =>
    Effect.gen(function* () {
      for (const value of wrong) {
        const built = Effect.scoped(Layer.build(layer({ ...valid, [name]: value }))).pipe(
          // One that is right after all tries to reach its server.
          Effect.timeoutOption("50 millis"),
          Effect.exit
        )
        const exit = yield* built
        if (Exit.isSuccess(exit)) continue
        const error = Cause.squash(exit.cause)
        if (error instanceof Broker.BrokerError) continue
        assert.include(String(error), "InvalidOption", `${name}: ${typeof value}`)
        assert.include(String(error), name)
      }
    })
  )
})

const problemOf = (layer: Layer.Layer<Broker.Broker, unknown>): Effect.Effect<string> =>
  Effect.map(Effect.exit(Effect.scoped(Layer.build(layer))), (exit) =>
    Exit.isSuccess(exit) ? "" : String(Cause.squash(exit.cause))
  )

describe("addresses", () => {
  const { kafka, nsq } = drivers
  const wrongAddresses = ["host", "host:0", "host:65536", "kafka://host:9092", "host:9092/", " host:9092"]
  it.live.each(wrongAddresses)("%o is none", (address) =>
    Effect.gen(function* () {
      for (const layer of [kafka?.layer({ brokers: [address] }), nsq?.layer({ nsqd: [address] })]) {
        assert.include(yield* layer === undefined ? Effect.succeed("") : problemOf(layer), "InvalidOption")
      }
    })
  )
})

/** What answers and is none of theirs: somebody has mistaken the port. */
const stranger = Effect.acquireRelease(
  Effect.callback<Server>((resume) => {
    const server = createServer((socket) => {
      socket.on("error", () => undefined)
      socket.on("data", () => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"))
    })
    server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
  }),
  (server) => Effect.sync(() => server.close())
)

describe("a port where something else answers", () => {
  const at: ReadonlyArray<readonly [string, (address: string) => Layer.Layer<Broker.Broker, unknown>, string]> = [
    ["kafka", (address) => Kafka.layer({ brokers: [address] }), "could be reached"],
    [
      "nsq",
      (address) => Nsq.layer({ nsqd: [address], connectTimeout: "200 millis" }),
      "is it the TCP port of an nsqd?"
    ],
    ["rabbitmq", (address) => RabbitMq.layer({ url: `amqp://${address}` }), "is it the AMQP port of the server"]
  ]
  it.live.each(at)("%s: the error says where, and what may be wrong", ([, layerAt, advice]) =>
    Effect.gen(function* () {
      const place = (yield* stranger).address()
      const address = `127.0.0.1:${typeof place === "object" && place !== null ? place.port : 0}`
      const problem = yield* problemOf(layerAt(address))
      assert.include(problem, ": connect failed: ")
      assert.include(problem, address)
      assert.include(problem, advice)
    })
  )
})

it("the errors of drivers have no stack, which would be that of the library; what caused them keeps its own", () => {
  const { unavailable } = Broker.errorsOf("test")
  const cause = new Error("cut")
  const error = unavailable({ operation: "publish" }, "the line was cut", cause)
  const frames = /\n\s+at /
  assert.notMatch(error.stack ?? "", frames)
  assert.notMatch(error.reason.stack ?? "", frames)
  assert.strictEqual(error.reason.cause, cause)
  assert.match(new Error("after").stack ?? "", frames)
})
