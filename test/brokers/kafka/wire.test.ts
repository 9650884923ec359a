/** What other programs send and read: messages without our headers, headers of all kinds, transactions, and a program in Go. */
import { execFile, execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { assert, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import type { Driver } from "millrace"
import { Consumer, Topic } from "millrace"
import { describeWith } from "../services.ts"
import { envelope, idOf, subscribe, takeOne } from "../support.ts"
import { client, connect, fresh, layerAt, until } from "./support.ts"

const root = resolve(import.meta.dirname, "../../..")
const bytes = (text: string) => Buffer.from(text)

/** What is published for a message that cannot be read. */
const letterOf = (topic: string, { body, envelope }: Driver.RawMessage): Driver.OutgoingMessage => ({
  envelope: { ...envelope, death: { reason: "undecodable", cause: "no json", at: 5 } },
  body,
  destination: { _tag: "DeadLetters", topic, group: "g" }
})

describeWith("kafka", (kafka) => {
  const broker = kafka.urls.bootstrap

  it.live("a message as other programs see it", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
      yield* driver.publish([
        {
          envelope: envelope("e-1", {
            topic,
            key: "k",
            version: 3,
            timestamp: 1_700_000_000_123,
            traceparent,
            headers: { tenant: "acmé" }
          }),
          body: bytes("{}"),
          destination: { _tag: "Topic", topic }
        }
      ])
      const [record] = yield* client(broker).read(topic, 1)
      assert.strictEqual(record?.key.toString(), "k")
      assert.strictEqual(record?.value.toString(), "{}")
      const headers = Object.fromEntries([...(record?.headers ?? [])].map(([name, value]) => [name, value.toString()]))
      assert.deepStrictEqual(headers, {
        ce_specversion: "1.0",
        ce_id: "e-1",
        ce_source: "//test",
        ce_type: topic,
        ce_time: "2023-11-14T22:13:20.123Z",
        ce_schemaversion: "3",
        ce_partitionkey: "k",
        "content-type": "application/json",
        traceparent,
        tenant: "acmé"
      })
      assert.isBelow(Math.abs(Number(record?.timestamp) - Date.now()), 60_000, "the time when it was written")
    })
  )

  it.live(
    "a message without our headers is a message; its place is its id, and its dead letter has its headers as they were",
    () =>
      Effect.gen(function* () {
        const topic = fresh()
        const driver = yield* connect(broker)
        yield* driver.declare({ topic, groups: ["g"] })
        const subscription = yield* subscribe(driver, { topic })
        const producer = yield* client(broker).producer()
        const binary = Buffer.from([0xff, 0x00, 0x80])
        const headers = new Map([
          [bytes("twice"), bytes("one")],
          [bytes("twice"), bytes("two")],
          [bytes("binary"), binary],
          [bytes("ce_attempt"), bytes("1e20")]
        ])
        yield* Effect.promise(() =>
          producer.send({
            acks: -1,
            messages: [
              { topic, partition: 2, key: bytes("their key"), value: bytes("no json"), headers },
              { topic, partition: 1, value: bytes("{}") }
            ]
          })
        )
        const deliveries = [yield* takeOne(subscription), yield* takeOne(subscription)]
        const theirs = deliveries.find((one) => idOf(one) === `${topic}/2/0`)
        const keyless = deliveries.find((one) => idOf(one) === `${topic}/1/0`)
        assert.strictEqual(keyless?.message.envelope.key, undefined)
        if (theirs === undefined) return assert.fail("the first did not come")
        const { attempt, contentType, key, timestamp, version } = theirs.message.envelope
        assert.deepStrictEqual([key, version, attempt, contentType], ["their key", 1, 1, "application/octet-stream"])
        assert.deepStrictEqual(theirs.message.envelope.headers, { twice: "two", binary: binary.toString("base64") })
        assert.isBelow(Math.abs(timestamp - Date.now()), 60_000)
        yield* driver.publish([letterOf(topic, theirs.message)])
        const [letter] = yield* client(broker).read(`${topic}..g..dead`, 1)
        const text = (name: string) => letter?.headers.get(name)?.toString()
        assert.strictEqual(text("millrace_origin"), `${topic}/2/0`)
        assert.strictEqual(text("ce_id"), `${topic}/2/0`)
        assert.strictEqual(text("ce_deathreason"), "undecodable")
        assert.deepStrictEqual(letter?.headers.get("binary"), binary)
        const kept = letter?.headerEntries.filter(([name]) => name === "twice").map(([, value]) => value.toString())
        assert.deepStrictEqual(kept, ["one", "two"])
      })
  )

  it.live("messages without a payload are told apart when they are set aside", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      yield* driver.declare({ topic, groups: ["g"] })
      const subscription = yield* subscribe(driver, { topic })
      const producer = yield* client(broker).producer()
      const empty = { topic, partition: 1, key: bytes("k") }
      yield* Effect.promise(() =>
        producer.send({ acks: -1, messages: [empty, empty, { ...empty, value: Buffer.alloc(0) }] })
      )
      const held = new Map<string, Driver.Delivery>()
      for (let n = 0; n < 3; n++) {
        const delivery = yield* takeOne(subscription)
        held.set(idOf(delivery), delivery)
      }
      const places = [2, 1, 0].map((offset) => `${topic}/1/${offset}`)
      for (const place of places) {
        const message = held.get(place)?.message
        if (message === undefined) return assert.fail(`${place} did not come`)
        yield* driver.publish([letterOf(topic, message)])
      }
      const letters = yield* client(broker).read(`${topic}..g..dead`, 3)
      assert.deepStrictEqual(
        letters.map(({ headers }) => headers.get("millrace_origin")?.toString()),
        places
      )
    })
  )

  it.live("messages of a transaction that was given up do not come, those of one that was committed do", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const driver = yield* connect(broker)
      yield* driver.declare({ topic, groups: ["g"] })
      const subscription = yield* subscribe(driver, { topic })
      const producer = yield* client(broker).producer({ transactionalId: fresh() })
      yield* Effect.promise(async () => {
        for (const [name, end] of [
          ["given up", "abort"],
          ["kept", "commit"]
        ] as const) {
          const transaction = await producer.beginTransaction()
          await transaction.send({ messages: [{ topic, partition: 0, value: bytes(name) }] })
          await transaction[end]()
        }
      })
      yield* driver.publish([
        { envelope: envelope("after", { topic }), body: bytes("after"), destination: { _tag: "Topic", topic } }
      ])
      const got = [yield* takeOne(subscription), yield* takeOne(subscription)]
      assert.deepStrictEqual(got.map(({ message }) => Buffer.from(message.body).toString()).toSorted(), [
        "after",
        "kept"
      ])
    })
  )

  const hasGo = (() => {
    try {
      execFileSync("go", ["version"], { stdio: "ignore" })
      return true
    } catch {
      return false
    }
  })()
  if (!hasGo) console.warn("SKIPPED: no Go, so the program in docs/brokers/kafka.md is not tried")

  it.live.skipIf(!hasGo)(
    "the program in Go of docs/brokers/kafka.md reads what is published here, and is understood",
    () =>
      Effect.gen(function* () {
        const page = readFileSync(join(root, "docs/brokers/kafka.md"), "utf8")
        const source = /```go\n([\s\S]*?)```/.exec(page)?.[1] ?? assert.fail("the page has no program in Go")
        const folder = yield* Effect.acquireRelease(
          Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-go-"))),
          (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true }))
        )
        mkdirSync(folder, { recursive: true })
        writeFileSync(join(folder, "main.go"), source)
        for (const name of ["go.mod", "go.sum"]) {
          writeFileSync(join(folder, name), readFileSync(join(import.meta.dirname, "go", name)))
        }
        const Order = Schema.Struct({ orderId: Schema.String, total: Schema.Number })
        const topic = Topic.make(fresh(), {
          schema: Order,
          version: 2,
          key: ({ orderId }) => orderId,
          groups: ["go", "here"]
        })
        yield* Effect.gen(function* () {
          const got: Array<unknown> = []
          yield* Consumer.make(
            topic,
            (order, { attempt, headers, id, key, version }) =>
              Effect.sync(() => got.push({ order, id, key, version, attempt, headers })),
            { group: "here" }
          )
          const { id } = yield* topic.publish({ orderId: "o-1", total: 5 }, { headers: { tenant: "acme" } })
          const said = yield* Effect.callback<string, Error>((resume) => {
            execFile(
              "go",
              ["run", ".", broker, topic.name, "from-go"],
              { cwd: folder, timeout: 100_000 },
              (error, out, err) =>
                resume(error === null ? Effect.succeed(out) : Effect.fail(new Error(`${error.message}\n${err}`)))
            )
          })
          assert.deepStrictEqual(JSON.parse(said), {
            id,
            key: "o-1",
            order: { orderId: "o-1", total: 5 },
            tenant: "acme",
            version: "2"
          })
          yield* until("both are here", () => got.length === 2)
          assert.deepStrictEqual(got[1], {
            order: { orderId: "o-2", total: 12 },
            id: "from-go",
            key: "o-2",
            version: 2,
            attempt: 1,
            headers: { tenant: "acme" }
          })
        }).pipe(Effect.provide(layerAt(broker)))
      }),
    { timeout: 120_000 }
  )
})
