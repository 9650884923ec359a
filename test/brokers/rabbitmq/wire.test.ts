/** What other programs send and read: messages without our headers, headers of all types, and a program in Go. */
import { execFile, execFileSync } from "node:child_process"
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Consumer, Topic } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import type { Envelope } from "../../../src/messaging/Envelope.ts"
import { describeWith } from "../services.ts"
import { driver, subscribe, takeOne } from "../support.ts"
import { fresh, getOne, rawChannel, until } from "./support.ts"

const root = resolve(import.meta.dirname, "../../..")

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const layer = RabbitMq.layer({ url })

  it.live("a message without any of our headers is a message", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const broker = yield* driver
      const subscription = yield* subscribe(broker, { topic })
      const channel = yield* rawChannel(url)
      channel.publish(topic, "any key", Buffer.from("{}"))
      channel.publish(topic, "", Buffer.from("{}"), {
        messageId: "theirs",
        timestamp: 1_700_000_000,
        correlationId: "c",
        type: "order.placed",
        contentType: "text/plain",
        headers: { "cloudEvents:attempt": 1e20, "cloudEvents:schemaversion": 3, traceparent: "not one" }
      })
      const { id, timestamp, ...rest } = (yield* takeOne(subscription)).message.envelope
      assert.match(id, new RegExp(`^${topic}:g/.*/1$`))
      assert.isBelow(Math.abs(timestamp - Date.now()), 5000)
      const usual: Partial<Envelope> = {
        source: "",
        key: undefined,
        attempt: 1,
        tracestate: undefined,
        headers: {},
        history: undefined,
        death: undefined,
        replays: 0
      }
      assert.deepStrictEqual<unknown>(rest, {
        ...usual,
        topic,
        version: 1,
        contentType: "application/octet-stream",
        traceparent: undefined,
        correlationId: undefined
      })
      assert.deepStrictEqual<unknown>((yield* takeOne(subscription)).message.envelope, {
        ...usual,
        id: "theirs",
        topic: "order.placed",
        version: 3,
        timestamp: 1_700_000_000_000,
        contentType: "text/plain",
        traceparent: "not one",
        correlationId: "c"
      })
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live(
    "headers of any type have a text, and are sent on as they came: to be tried again, and as a dead letter",
    () =>
      Effect.gen(function* () {
        const topic = Topic.make(fresh(), { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })
        const headers = {
          text: "ü",
          number: 7,
          float: 1.5,
          yes: true,
          nothing: null,
          bytes: Buffer.from([0xff, 0x00]),
          utf8: Buffer.from("ü"),
          time: { "!": "timestamp", value: 1_700_000_000 },
          price: { "!": "decimal", value: { places: 2, digits: 1999 } },
          list: ["a", 1, null, Buffer.from([0xff])],
          table: { inner: { deep: true }, when: { "!": "timestamp", value: 0 } },
          "x-mine": "free"
        }
        const seen: Array<Envelope> = []
        yield* Consumer.make(
          topic,
          (_, envelope) =>
            Effect.suspend(() => {
              seen.push(envelope)
              return Effect.fail("no" as const)
            }),
          { group: "g", maxAttempts: 2, onError: () => Consumer.delay("10 millis") }
        )
        const channel = yield* rawChannel(url)
        channel.publish(topic.name, "", Buffer.from('{"n":1}'), { messageId: "m", headers: { ...headers, CC: [] } })
        const letter = yield* getOne(channel, `${topic.name}:g:dead`)
        const expected = {
          text: "ü",
          number: "7",
          float: "1.5",
          yes: "true",
          nothing: "",
          bytes: "/wA=",
          utf8: "ü",
          time: "2023-11-14T22:13:20.000Z",
          price: "19.99",
          list: '["a",1,null,"/w=="]',
          table: '{"inner":{"deep":true},"when":"1970-01-01T00:00:00.000Z"}',
          "x-mine": "free"
        }
        assert.deepStrictEqual(
          seen.map(({ attempt, headers, id }) => ({ attempt, headers, id })),
          [
            { attempt: 1, headers: expected, id: "m" },
            { attempt: 2, headers: expected, id: "m" }
          ]
        )
        const kept = Object.entries(letter.properties.headers ?? {}).filter(
          ([name]) => !name.startsWith("cloudEvents:") && name !== "x-delivery-count"
        )
        assert.deepStrictEqual(Object.fromEntries(kept), headers)
        assert.strictEqual(letter.properties.headers?.["cloudEvents:deathreason"], "exhausted")
        assert.strictEqual(letter.content.toString(), '{"n":1}')
      }).pipe(Effect.scoped, Effect.provide(layer))
  )

  const hasGo = (() => {
    try {
      return execFileSync("go", ["version"], { encoding: "utf8" }).startsWith("go version")
    } catch {
      return false
    }
  })()
  if (!hasGo) console.warn("SKIPPED: Go is not installed; the program of docs/brokers/rabbitmq.md was not run")

  it.skipIf(!hasGo)(
    "the Go program of the documentation reads what we publish, and we read what it publishes",
    { timeout: 180_000 },
    () =>
      Effect.gen(function* () {
        const page = readFileSync(join(root, "docs/brokers/rabbitmq.md"), "utf8")
        const [, program] = /```go\n(.*?)```/s.exec(page) ?? assert.fail("there is no Go program in the documentation")
        const folder = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-go-"))),
          (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
        )
        mkdirSync(folder, { recursive: true })
        for (const file of ["go.mod", "go.sum"]) cpSync(join(import.meta.dirname, "go", file), join(folder, file))
        writeFileSync(join(folder, "main.go"), program ?? "")
        const Order = Schema.Struct({ orderId: Schema.String, total: Schema.Number })
        const topic = Topic.make(fresh(), {
          schema: Order,
          version: 2,
          key: ({ orderId }) => orderId,
          groups: ["sms", "audit"]
        })
        const got: Array<readonly [typeof Order.Type, Envelope]> = []
        yield* Consumer.make(topic, (order, envelope) => Effect.sync(() => got.push([order, envelope])), {
          group: "audit"
        })
        yield* topic.publish(
          { orderId: "größe", total: 1.5 },
          { id: "ours", headers: { tenant: "acme" }, correlationId: "c-1" }
        )
        const output = yield* Effect.callback<string>((resume) => {
          execFile("go", ["run", ".", url, topic.name, "sms"], { cwd: folder }, (error, stdout, stderr) =>
            resume(error === null ? Effect.succeed(stdout) : Effect.die(new Error(`${error.message}\n${stderr}`)))
          )
        })
        assert.deepStrictEqual(JSON.parse(output.trim()), {
          id: "ours",
          key: "größe",
          version: "2",
          tenant: "acme",
          order: { orderId: "größe", total: 1.5 }
        })
        yield* until("its message is handled", () => got.length === 2)
        const [order, envelope] = got.find(([, { id }]) => id !== "ours") ?? assert.fail("it is not there")
        assert.deepStrictEqual(order, { orderId: "o-2", total: 12 })
        const { attempt, correlationId, headers, id, key, source, timestamp, topic: name, version } = envelope
        assert.deepStrictEqual(
          { attempt, correlationId, headers, id, key, source, name, version },
          {
            attempt: 1,
            correlationId: "c-2",
            headers: { tenant: "acme" },
            id: "from-go",
            key: "o-2",
            source: "/go/orders",
            name: topic.name,
            version: 2
          }
        )
        assert.isBelow(Math.abs(timestamp - Date.now()), 60_000)
      }).pipe(Effect.scoped, Effect.provide(layer), Effect.runPromise)
  )
})
