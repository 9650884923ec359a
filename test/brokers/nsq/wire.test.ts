/** What other programs send and read: bodies with and without our envelope, and a program in Go. */
import { execFile, execFileSync } from "node:child_process"
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { assert, it } from "@effect/vitest"
import { Effect, Schedule, Schema } from "effect"
import type { Envelope } from "millrace"
import { Consumer, Topic } from "millrace"
import { Nsq, NsqProtocol } from "millrace/nsq"
import { describeWith } from "../services.ts"
import { driver, subscribe, takeOne } from "../support.ts"
import { fresh, hostAndPort } from "./support.ts"

const root = resolve(import.meta.dirname, "../../..")
const { ask, Command, connect } = NsqProtocol

describeWith("nsq", (nsq) => {
  const { nsqd1 } = nsq.urls
  const layer = Nsq.layer({ nsqd: [nsqd1] })

  const frame = (envelope: string, payload: string, length = Buffer.byteLength(envelope)) => {
    const head = Buffer.from([0x89, 0x4d, 0x52, 0x31, 0, 0, 0, 0])
    head.writeUInt32BE(length, 4)
    return Buffer.concat([head, Buffer.from(envelope), Buffer.from(payload)])
  }

  it.live("bodies without an envelope, and with an odd or broken one, are messages", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const broker = yield* driver
      const subscription = yield* subscribe(broker, { topic })
      const connection = yield* connect(hostAndPort(nsqd1))
      /** What comes of a body. */
      const received = (body: Buffer) =>
        Effect.gen(function* () {
          yield* ask(connection, Command.pub(topic, body))
          const delivery = yield* takeOne(subscription)
          yield* subscription.settle([{ _tag: "Acknowledge", delivery }])
          return { ...delivery.message, deliveries: delivery.deliveries }
        })
      const plain = yield* received(Buffer.from('{"n":1}'))
      assert.match(plain.envelope.id, /^[0-9a-f]{16}$/)
      assert.isBelow(Math.abs(plain.envelope.timestamp - Date.now()), 60_000)
      assert.deepStrictEqual(
        [
          plain.envelope.topic,
          plain.envelope.attempt,
          plain.envelope.version,
          plain.envelope.headers,
          plain.deliveries
        ],
        [topic, 1, 1, {}, 1]
      )
      assert.strictEqual(Buffer.from(plain.body).toString(), '{"n":1}')
      const odd = yield* received(
        frame(
          '{"id":"x","attempt":"1e20","schemaversion":3,"headers":{"a":"1","b":2,"c":null,"d":[1]},"traceparent":5}',
          "p"
        )
      )
      assert.deepStrictEqual(
        [odd.envelope.id, odd.envelope.attempt, odd.envelope.version, odd.envelope.headers, odd.envelope.traceparent],
        ["x", 1, 1, { a: "1", b: "2", c: "", d: "[1]" }, undefined]
      )
      assert.strictEqual(Buffer.from(odd.body).toString(), "p")
      for (const broken of [
        frame("{", "p"),
        frame("[]", "p"),
        frame("{}", "", 1000),
        Buffer.from([0x89, 0x4d, 0x52, 0x31])
      ]) {
        const { body, envelope } = yield* received(broken)
        assert.deepStrictEqual(Buffer.from(body), broken)
        assert.match(envelope.id, /^[0-9a-f]{16}$/)
      }
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  const hasGo = (() => {
    try {
      return execFileSync("go", ["version"], { encoding: "utf8" }).startsWith("go version")
    } catch {
      return false
    }
  })()
  if (!hasGo) console.warn("SKIPPED: Go is not installed; the program of docs/brokers/nsq.md was not run")

  it.skipIf(!hasGo)(
    "the Go program of the documentation reads what we publish, and we read what it publishes",
    { timeout: 180_000 },
    () =>
      Effect.gen(function* () {
        const page = readFileSync(join(root, "docs/brokers/nsq.md"), "utf8")
        const [, program] = /```go\n(.*?)```/s.exec(page) ?? assert.fail("there is no Go program in the documentation")
        const folder = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-go-"))),
          (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
        )
        for (const file of ["go.mod", "go.sum"]) cpSync(join(import.meta.dirname, "go", file), join(folder, file))
        writeFileSync(join(folder, "main.go"), program ?? "")
        const Order = Schema.Struct({ orderId: Schema.String, total: Schema.Number })
        const topic = Topic.make(fresh(), {
          schema: Order,
          version: 2,
          key: ({ orderId }) => orderId,
          groups: ["sms", "audit"],
          upcast: { 1: Topic.upcast(Order, (order) => order) }
        })
        const got: Array<readonly [typeof Order.Type, Envelope.Envelope]> = []
        yield* Consumer.make(topic, (order, envelope) => Effect.sync(() => got.push([order, envelope])), {
          group: "audit"
        })
        yield* topic.publish(
          { orderId: "größe", total: 1.5 },
          { id: "ours", headers: { tenant: "acme" }, correlationId: "c-1" }
        )
        const output = yield* Effect.callback<string>((resume) => {
          execFile("go", ["run", ".", nsqd1, topic.name, "sms"], { cwd: folder }, (error, stdout, stderr) =>
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
        yield* Effect.sync(() => got.length >= 3).pipe(
          Effect.repeat({ until: (there) => there, schedule: Schedule.spaced("10 millis") }),
          Effect.timeout("30 seconds")
        )
        const [order, envelope] = got.find(([, { id }]) => id === "from-go") ?? assert.fail("it is not there")
        assert.deepStrictEqual(order, { orderId: "o-2", total: 12 })
        const { attempt, correlationId, headers, key, source, topic: name, version } = envelope
        assert.deepStrictEqual(
          { attempt, correlationId, headers, key, source, name, version },
          {
            attempt: 1,
            correlationId: "c-2",
            headers: { tenant: "acme" },
            key: "o-2",
            source: "/go/orders",
            name: topic.name,
            version: 2
          }
        )
        const [bare] = got.find(([, { id }]) => id !== "from-go" && id !== "ours") ?? assert.fail("it is not there")
        assert.deepStrictEqual(bare, { orderId: "o-2", total: 12 })
      }).pipe(Effect.scoped, Effect.provide(layer), Effect.runPromise)
  )
})
