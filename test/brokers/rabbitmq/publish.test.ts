/** Publishing: what is confirmed, what is bounded, and what happens while the server takes nothing. */
import { execFile } from "node:child_process"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Option, Redacted } from "effect"
import { Registry } from "millrace"
import { RabbitMq } from "millrace/rabbitmq"
import { everyInterruptionPoint } from "millrace/testing"
import { describeWith } from "../services.ts"
import { driver, subscribe, take, takeOne } from "../support.ts"
import { codeOf, fresh, getOne, proxied, rawChannel, send, until } from "./support.ts"

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const layer = RabbitMq.layer({ url: Redacted.make(url) })
  const ctl = (...args: ReadonlyArray<string>) => rabbitmq.exec(["rabbitmqctl", "-q", ...args])

  /** What the registry says of the one broker. */
  const entry = Effect.map(Registry.Registry, ({ entries }) => {
    const found = [...entries].find(({ kind }) => kind === "broker")
    return found ?? assert.fail("the broker is not in the registry")
  })
  const count = (name: string) =>
    Effect.map(entry, (entry) => () => entry.counts().find(([one]) => one === name)?.[1] ?? Number.NaN)
  const withRegistry = Effect.provideServiceEffect(Registry.Registry, Effect.sync(Registry.makeUnsafe))

  it.live("messages are persistent and carry what CloudEvents and AMQP have a place for", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      const topic = fresh()
      yield* broker.declare({ topic, groups: ["g"] })
      const message = send(topic, "id-1")
      yield* broker.publish([
        {
          ...message,
          envelope: {
            ...message.envelope,
            key: "k",
            correlationId: "c",
            timestamp: 1_700_000_000_123,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            headers: { color: "grün" }
          }
        }
      ])
      const { properties } = yield* getOne(yield* rawChannel(url), `${topic}:g`)
      const { contentType, correlationId, deliveryMode, headers, messageId, timestamp, type } = properties
      assert.deepStrictEqual(
        { contentType, correlationId, deliveryMode, messageId, timestamp, type },
        {
          contentType: "application/json",
          correlationId: "c",
          deliveryMode: 2,
          messageId: "id-1",
          timestamp: 1_700_000_000,
          type: topic
        }
      )
      assert.deepStrictEqual(headers, {
        // The server's own.
        "x-delivery-count": 0,
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": "id-1",
        "cloudEvents:source": "//test",
        "cloudEvents:type": topic,
        "cloudEvents:time": "2023-11-14T22:13:20.123Z",
        "cloudEvents:schemaversion": "1",
        "cloudEvents:partitionkey": "k",
        "cloudEvents:correlationid": "c",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        color: "grün"
      })
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("no more are unconfirmed than the bounds allow, and a message over the bytes goes alone", () =>
    Effect.gen(function* () {
      const { proxy, url: slow } = yield* proxied(url)
      const topic = fresh()
      const program = Effect.gen(function* () {
        const broker = yield* driver
        const [unconfirmed, waiting] = [yield* count("unconfirmed"), yield* count("waiting to be sent")]
        yield* broker.declare({ topic, groups: ["g"] })
        yield* broker.publish([send(topic, "first")])
        // Nothing is confirmed any more.
        yield* proxy.stall("toClient")
        const messages = Array.from({ length: 20 }, (_, n) => send(topic, `m${n}`, { body: new Uint8Array(100) }))
        const publishing = yield* Effect.forkChild(broker.publish(messages), { startImmediately: true })
        yield* until("ten are sent", () => unconfirmed() === 10 && waiting() === 10)
        yield* proxy.restore
        assert.deepStrictEqual(new Set((yield* Fiber.join(publishing)).map(codeOf)), new Set(["Confirmed"]))
        const big = (id: string) => send(topic, id, { body: new Uint8Array(3000) })
        yield* proxy.stall("toClient")
        const others = yield* Effect.forkChild(broker.publish([big("a"), big("b")]), { startImmediately: true })
        yield* until("one of two is sent", () => unconfirmed() === 1 && waiting() === 1)
        yield* proxy.restore
        assert.deepStrictEqual((yield* Fiber.join(others)).map(codeOf), ["Confirmed", "Confirmed"])
      })
      const bounded = RabbitMq.layer({ url: slow, maxUnconfirmed: 10, maxUnconfirmedBytes: 2000 })
      yield* program.pipe(Effect.provide(bounded), withRegistry)
    }).pipe(Effect.scoped)
  )

  it.live("an interrupted publish is never sent, or takes its own confirm: the next get theirs", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const broker = yield* driver
      const unconfirmed = yield* count("unconfirmed")
      yield* broker.declare({ topic, groups: ["g"] })
      let n = 0
      yield* everyInterruptionPoint(
        Effect.void,
        () => broker.publish([send(topic, `swept ${n++}`), send(`${topic}-nobody`, `returned ${n}`)]),
        () =>
          Effect.gen(function* () {
            const answers = yield* broker.publish([send(topic, "next"), send(`${topic}-nobody`, "next")])
            if (answers.map(codeOf).join() !== "Confirmed,NoGroup") return yield* Effect.die(answers)
          })
      )
      yield* until("everything is confirmed", () => unconfirmed() === 0)
    }).pipe(Effect.scoped, Effect.provide(layer), withRegistry)
  )

  it.live("a message that is given up while it waits is not sent later", () =>
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      const topic = fresh()
      yield* Effect.gen(function* () {
        const broker = yield* driver
        yield* broker.declare({ topic, groups: ["g"] })
        yield* proxy.refuse
        yield* proxy.cut
        const given = yield* Effect.forEach(
          Array.from({ length: 200 }, (_, n) => n),
          (n) => Effect.timeoutOption(broker.publish([send(topic, `late ${n}`)]), "20 millis"),
          { concurrency: "unbounded" }
        )
        assert.isTrue(given.every(Option.isNone))
        yield* proxy.restore
        yield* broker.publish([send(topic, "now")])
        const subscription = yield* subscribe(broker, { topic })
        assert.deepStrictEqual(yield* take(subscription), ["now"])
      }).pipe(Effect.provide(RabbitMq.layer({ url: by })))
    }).pipe(Effect.scoped)
  )

  it.live("without a connection a publish waits for one, and fails as Unavailable when it takes too long", () =>
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      const topic = fresh()
      yield* Effect.gen(function* () {
        const broker = yield* driver
        yield* broker.declare({ topic, groups: ["g"] })
        yield* proxy.refuse
        yield* proxy.cut
        const [late] = yield* broker.publish([send(topic, "1")])
        assert.strictEqual(codeOf(late), "Unavailable")
        if (late?._tag === "Failed") assert.deepStrictEqual(late.error.ids, ["1"])
        // Published in the moment in which the one before fails.
        for (const id of ["a", "b"]) {
          const again = yield* Effect.timeout(broker.publish([send(topic, id)]), "10 seconds")
          assert.deepStrictEqual(again.map(codeOf), ["Unavailable"])
        }
        const waiting = yield* Effect.forkChild(broker.publish([send(topic, "2")]))
        yield* Effect.sleep("200 millis")
        yield* proxy.restore
        assert.deepStrictEqual((yield* Fiber.join(waiting)).map(codeOf), ["Confirmed"])
      }).pipe(Effect.provide(RabbitMq.layer({ url: by, waitForConnection: "1 second" })))
    }).pipe(Effect.scoped)
  )

  it.live("a memory alarm holds publishers back and says so; consumers begin, retry and acknowledge all the same", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const broker = yield* driver
      const registered = yield* entry
      yield* broker.declare({ topic, groups: ["g"] })
      yield* broker.publish(Array.from({ length: 10 }, (_, n) => send(topic, `m${n}`)))
      yield* Effect.acquireRelease(ctl("set_vm_memory_high_watermark", "0.00001"), () =>
        ctl("set_vm_memory_high_watermark", "0.4")
      )
      const publishing = yield* Effect.forkChild(broker.publish([send(topic, "blocked")]))
      yield* until("the registry says that it is blocked", () =>
        registered.notes().some((note) => /takes no messages now/.test(note))
      )
      const given = yield* Effect.timeoutOption(broker.publish([send(topic, "given up")]), "50 millis")
      assert.isTrue(Option.isNone(given))
      // A consumer that begins now works off what is there, although a retry cannot be sent.
      const subscription = yield* subscribe(broker, { topic })
      const first = yield* takeOne(subscription)
      const envelope = { ...first.message.envelope, attempt: 2 }
      assert.deepStrictEqual(yield* subscription.settle([{ _tag: "Retry", delivery: first, delay: 0, envelope }]), [
        "Unconfirmed"
      ])
      let acknowledged = 0
      while (acknowledged < 9) {
        const some = yield* subscription.take(100, 1_000_000)
        yield* subscription.settle(some.map((delivery) => ({ _tag: "Acknowledge", delivery })))
        acknowledged += some.length
      }
      assert.strictEqual((yield* broker.backlog({ topic, group: "g" })).waiting, 0)
      assert.isUndefined(publishing.pollUnsafe(), "it was confirmed during an alarm")
      yield* ctl("set_vm_memory_high_watermark", "0.4")
      assert.deepStrictEqual((yield* Fiber.join(publishing)).map(codeOf), ["Confirmed"])
      yield* until("the registry says no more", () => registered.notes().length === 0)
      const rest: Array<string> = []
      while (rest.length < 2) rest.push(...(yield* take(subscription)))
      assert.deepStrictEqual(rest.toSorted(), [first.message.envelope.id, "blocked"].toSorted())
    }).pipe(Effect.scoped, Effect.provide(layer), withRegistry)
  )

  it.live("a message over the server's own limit is TooLarge, and the others of the topic go on", () =>
    Effect.gen(function* () {
      yield* Effect.acquireRelease(ctl("eval", "application:set_env(rabbit, max_message_size, 5000)."), () =>
        ctl("eval", "application:set_env(rabbit, max_message_size, 134217728).")
      )
      // Channels read the limit when they are opened.
      yield* Effect.gen(function* () {
        const topic = fresh()
        const broker = yield* driver
        yield* broker.declare({ topic, groups: ["g"] })
        const answers = yield* broker.publish([
          send(topic, "small"),
          send(topic, "large", { body: new Uint8Array(5001) })
        ])
        assert.include(["Confirmed", "Unavailable"], codeOf(answers[0]))
        assert.strictEqual(codeOf(answers[1]), "TooLarge")
        assert.deepStrictEqual((yield* broker.publish([send(topic, "next")])).map(codeOf), ["Confirmed"])
      }).pipe(Effect.provide(layer))
    }).pipe(Effect.scoped)
  )

  it.live("what a full queue refuses is not confirmed: other groups may have it", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const broker = yield* driver
      const definition = JSON.stringify({ "max-length": 1, overflow: "reject-publish" })
      yield* Effect.acquireRelease(ctl("set_policy", topic, `^${topic}`, definition, "--apply-to", "queues"), () =>
        ctl("clear_policy", topic)
      )
      yield* broker.declare({ topic, groups: ["g"] })
      const codes: Array<string> = []
      for (let n = 0; n < 10; n++) codes.push(codeOf((yield* broker.publish([send(topic, `m${n}`)]))[0]))
      assert.deepStrictEqual(new Set(codes), new Set(["Confirmed", "Unavailable"]))
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("an envelope that cannot be written, and headers that mean something to the server, are refused alone", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const broker = yield* driver
      yield* broker.declare({ topic, groups: ["g"] })
      const withHeaders = (id: string, headers: Record<string, string>) => {
        const message = send(topic, id)
        return { ...message, envelope: { ...message.envelope, headers } }
      }
      const answers = yield* broker.publish([
        withHeaders("a", { big: "x".repeat(70_000) }),
        withHeaders("b", { CC: "another queue" }),
        withHeaders("c", { "x-death": "?" }),
        withHeaders("d", { ["n".repeat(256)]: "long" }),
        withHeaders("e", { ok: "yes" }),
        send(topic, "i".repeat(300)),
        send(topic, "delay", { delay: 5_000_000_000 }),
        send(topic, "priority", { priority: 1 })
      ])
      assert.deepStrictEqual(answers.map(codeOf), [
        "TooLarge",
        "InvalidName",
        "InvalidName",
        "InvalidName",
        "Confirmed",
        "Confirmed",
        "Unsupported",
        "Unsupported"
      ])
      const ids: Array<string> = []
      const subscription = yield* subscribe(broker, { topic })
      while (ids.length < 2) ids.push(...(yield* take(subscription)))
      assert.deepStrictEqual(ids, ["e", "i".repeat(300)])
    }).pipe(Effect.scoped, Effect.provide(layer))
  )

  it.live("an envelope over what the connection takes is refused alone, and the connection stays", () =>
    Effect.gen(function* () {
      const { proxy, url: by } = yield* proxied(url)
      yield* Effect.gen(function* () {
        const topic = fresh()
        const broker = yield* driver
        yield* broker.declare({ topic, groups: ["g"] })
        const wide = (id: string, bytes: number) => {
          const message = send(topic, id)
          return { ...message, envelope: { ...message.envelope, headers: { wide: "x".repeat(bytes) } } }
        }
        const answers = yield* broker.publish([wide("a", 8192), wide("b", 7000), wide("c", 60_000), send(topic, "d")])
        assert.deepStrictEqual(answers.map(codeOf), ["TooLarge", "Confirmed", "TooLarge", "Confirmed"])
        assert.deepStrictEqual(yield* proxy.connections, { open: 2, accepted: 2 })
        assert.deepStrictEqual(yield* take(yield* subscribe(broker, { topic, credit: 1 })), ["b"])
      }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: `${by}?frameMax=8192` })))
    }).pipe(Effect.scoped)
  )

  it.live("where one of many cannot be written and its failure interrupts the others, publishing goes on", () =>
    Effect.gen(function* () {
      const file = fileURLToPath(new URL("siblings.ts", import.meta.url))
      // Killed where it hangs, which is a failure.
      const { stdout } = yield* Effect.promise(() =>
        promisify(execFile)(process.execPath, ["--conditions=millrace-source", file], {
          env: { ...process.env, RABBITMQ_URL: url, TOPIC: fresh() },
          timeout: 30_000,
          killSignal: "SIGKILL"
        })
      )
      assert.strictEqual(stdout, "TooLarge Confirmed\n")
    })
  )
})
