/** Servers that want TLS, or a secret. */
import { readFileSync } from "node:fs"
import { createServer } from "node:http"
import { fileURLToPath } from "node:url"
import { assert, it } from "@effect/vitest"
import { Effect, Layer, Redacted, References, Schedule, Schema } from "effect"
import { Consumer, Topic } from "millrace"
import { Nsq } from "millrace/nsq"
import { describeWith } from "../services.ts"
import { driver, idOf, message, subscribe, takeOne } from "../support.ts"
import { nsqd } from "./server.ts"
import { fresh, until } from "./support.ts"

const cert = fileURLToPath(new URL("tls/cert.pem", import.meta.url))
const key = fileURLToPath(new URL("tls/key.pem", import.meta.url))
const ca = readFileSync(cert)
const withTls = [`-tls-cert=${cert}`, `-tls-key=${key}`]

const quietly = Effect.provideService(References.MinimumLogLevel, "Error")
const soon = { connectTimeout: "1 second", waitForConnection: "1 second" } as const

/** What the server lets a program do: publish to a topic, and read it again. */
const roundTrip = (topic: string) =>
  Effect.gen(function* () {
    const broker = yield* driver
    const subscription = yield* subscribe(broker, { topic })
    const answers = yield* broker.publish([message("m", { destination: { _tag: "Topic", topic } })])
    assert.deepStrictEqual(answers, [{ _tag: "Confirmed" }])
    const delivery = yield* takeOne(subscription)
    assert.strictEqual(idOf(delivery), "m")
    yield* subscription.settle([{ _tag: "Acknowledge", delivery }])
  }).pipe(Effect.scoped)

/** Why the layer cannot be built. */
const refusal = (options: Nsq.Options<"default">) =>
  Effect.map(Effect.flip(Effect.scoped(Layer.build(Nsq.layer({ ...soon, ...options })))), ({ reason }) => reason)

/** An authorization server that knows one secret, which may use the topics of a pattern. */
const authServer = (secret: string, topics: () => string) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly address: string; readonly asked: Array<URLSearchParams>; close: () => void }>(
      (resume) => {
        const asked: Array<URLSearchParams> = []
        const server = createServer((request, response) => {
          const { searchParams } = new URL(request.url ?? "", "http://localhost")
          asked.push(searchParams)
          if (searchParams.get("secret") !== secret) return response.writeHead(403).end("{}")
          const permissions = ["publish", "subscribe"]
          const authorizations = [{ topic: topics(), channels: [".*"], permissions }]
          response.end(JSON.stringify({ ttl: 3600, identity: "tests", authorizations }))
        }).listen(0, "127.0.0.1", () => {
          const address = server.address()
          const port = typeof address === "object" && address !== null ? address.port : 0
          resume(Effect.succeed({ address: `127.0.0.1:${port}`, asked, close: () => server.close() }))
        })
      }
    ),
    (server) => Effect.sync(server.close)
  )

describeWith("nsq", () => {
  it.live("speaks TLS where the server has a certificate that it knows, and with no other server", () =>
    Effect.gen(function* () {
      const { tcp } = yield* nsqd(...withTls)
      yield* Effect.provide(roundTrip(fresh()), Nsq.layer({ nsqd: [tcp], tls: { ca } }))
      // Whoever could be in between is not spoken to.
      const unknown = yield* refusal({ nsqd: [tcp], tls: {} })
      assert.strictEqual(unknown._tag, "Unavailable")
      assert.match(unknown.detail, /self-signed certificate/)
      const elsewhere = yield* refusal({ nsqd: [tcp], tls: { ca, servername: "elsewhere.example" } })
      assert.match(elsewhere.detail, /does not match certificate/)
      const { tcp: plain } = yield* nsqd()
      const none = yield* refusal({ nsqd: [plain], tls: { ca } })
      assert.strictEqual(none._tag === "Rejected" && none.code, "Refused")
      assert.match(none.detail, /no TLS/)
    }).pipe(Effect.scoped, quietly)
  )

  it.live("shows a certificate of its own to a server that asks for one", () =>
    Effect.gen(function* () {
      const { tcp } = yield* nsqd(...withTls, "-tls-client-auth-policy=require")
      const own = { cert: ca, key: readFileSync(key) }
      yield* Effect.provide(roundTrip(fresh()), Nsq.layer({ nsqd: [tcp], tls: { ca, ...own } }))
      assert.strictEqual((yield* refusal({ nsqd: [tcp], tls: { ca } }))._tag, "Unavailable")
    }).pipe(Effect.scoped, quietly)
  )

  it.live("a server that does without TLS nothing refuses what is asked of it", () =>
    Effect.gen(function* () {
      const { tcp } = yield* nsqd(...withTls, "-tls-required=true")
      yield* Effect.gen(function* () {
        const broker = yield* driver
        const [answer] = yield* broker.publish([message("m", { destination: { _tag: "Topic", topic: fresh() } })])
        const reason = answer?._tag === "Failed" ? answer.error.reason : undefined
        assert.strictEqual(reason?._tag === "Rejected" && reason.code, "Refused")
        assert.match(reason?.detail ?? "", /TLS required/)
      }).pipe(Effect.provide(Nsq.layer({ nsqd: [tcp] })))
    }).pipe(Effect.scoped, quietly)
  )

  it.live("gives the secret to a server that wants one, and says Denied where it is wrong, missing or not enough", () =>
    Effect.gen(function* () {
      const mine = fresh()
      const auth = yield* authServer("s3cret", () => `^${mine}`)
      const { tcp } = yield* nsqd(`-auth-http-address=${auth.address}`, ...withTls)
      const layer = Nsq.layer({ nsqd: [tcp], authSecret: Redacted.make("s3cret"), tls: { ca } })
      yield* Effect.gen(function* () {
        yield* roundTrip(mine)
        const broker = yield* driver
        const [answer] = yield* broker.publish([message("m", { destination: { _tag: "Topic", topic: fresh() } })])
        const reason = answer?._tag === "Failed" ? answer.error.reason : undefined
        assert.strictEqual(reason?._tag === "Rejected" && reason.code, "Denied")
      }).pipe(Effect.provide(layer))
      // After TLS, not before: the secret does not go over the wire as it is.
      assert.deepStrictEqual([...new Set(auth.asked.map((query) => query.get("tls")))], ["true"])
      for (const authSecret of ["wrong", undefined]) {
        const reason = yield* refusal({ nsqd: [tcp], authSecret })
        assert.strictEqual(reason._tag === "Rejected" && reason.code, "Denied")
      }
    }).pipe(Effect.scoped, quietly)
  )

  it.live("where the topic of a group's own may not be read health says so, until it may", () =>
    Effect.gen(function* () {
      const topic = Topic.make(fresh(), { schema: Schema.Number, version: 1, groups: ["g"] })
      let allowed = `^${topic.name}$`
      const auth = yield* authServer("s3cret", () => allowed)
      const { tcp } = yield* nsqd(`-auth-http-address=${auth.address}`)
      yield* Effect.gen(function* () {
        const got: Array<number> = []
        const consumer = yield* Consumer.make(topic, (n) => Effect.sync(() => got.push(n)), { group: "g" })
        const is = (status: string) =>
          Effect.repeat(consumer.health, {
            until: (health) => health.status === status,
            schedule: Schedule.spaced("10 millis")
          })
        const { problem } = yield* is("unreachable")
        assert.strictEqual(problem?.reason._tag === "Rejected" && problem.reason.code, "Denied")
        assert.match(problem?.message ?? "", /refuses channel "g" of topic ".*\.\.retry".*E_UNAUTHORIZED/)
        yield* topic.publish(1)
        yield* until("it is handled", () => got.length === 1)
        assert.strictEqual((yield* consumer.health).problem?.message, problem?.message)
        allowed = `^${topic.name}`
        yield* is("consuming")
      }).pipe(Effect.scoped, Effect.provide(Nsq.layer({ nsqd: [tcp], authSecret: "s3cret" })))
    }).pipe(Effect.scoped, quietly)
  )
})
