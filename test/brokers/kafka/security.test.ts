/** TLS and passwords, against the real server. */
import { pbkdf2Sync, randomBytes } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { connect as connectTls } from "node:tls"
import { assert, it } from "@effect/vitest"
import { alterUserScramCredentialsV0, ConnectionPool } from "@platformatic/kafka"
import { Effect, Exit, Layer, Redacted, Schema } from "effect"
import { Consumer, Topic } from "millrace"
import { Kafka } from "millrace/kafka"
import { certificateOf as certificateFile, user } from "../../../scripts/services/kafka.ts"
import { folder } from "../../../scripts/services/state.ts"
import { describeWith } from "../services.ts"
import { fresh, layerAt, until } from "./support.ts"

/** The certificate that the server shows, which vouches for itself. */
const certificateOf = (broker: string) =>
  Effect.callback<string>((resume) => {
    const [host = "", port] = broker.split(":")
    const socket = connectTls({ host, port: Number(port), rejectUnauthorized: false }, () => {
      const { raw } = socket.getPeerCertificate()
      socket.destroy()
      const lines = raw.toString("base64").replaceAll(/.{64}/g, "$&\n")
      resume(Effect.succeed(`-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`))
    })
  })

/** Makes a user for SCRAM, as an administrator does. */
const makeUser = (broker: string, mechanism: "SCRAM-SHA-256" | "SCRAM-SHA-512", name: string, password: string) =>
  Effect.promise(async () => {
    const pool = new ConnectionPool("test")
    const [host = "", port] = broker.split(":")
    const [kind, hash, length] = mechanism === "SCRAM-SHA-256" ? [1, "sha256", 32] : [2, "sha512", 64]
    const salt = randomBytes(16)
    const saltedPassword = pbkdf2Sync(password, salt, 4096, Number(length), String(hash))
    try {
      const connection = await pool.get({ host, port: Number(port) })
      const credentials = { name, mechanism: Number(kind), iterations: 4096, salt, saltedPassword }
      await alterUserScramCredentialsV0.api.async(connection, [], [credentials])
    } finally {
      await pool.close()
    }
  })

/** A token without a signature, which this server takes for as long as it says. */
const tokenFor = (subject: string, seconds: number): string => {
  const now = Math.floor(Date.now() / 1000)
  const claims = { sub: subject, iat: now - 120, exp: now + seconds }
  const part = (json: object) => Buffer.from(JSON.stringify(json)).toString("base64url")
  return `${part({ alg: "none" })}.${part(claims)}.`
}

/** Publishes and consumes over it, and adds to the topic's dead letters nothing. */
const worksOver = (layer: ReturnType<typeof layerAt>) =>
  Effect.gen(function* () {
    const topic = Topic.make(fresh(), { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })
    const got: Array<number> = []
    yield* Consumer.make(topic, ({ n }) => Effect.sync(() => got.push(n)), { group: "g" })
    for (const n of [1, 2, 3]) yield* topic.publish({ n })
    yield* until("all are handled", () => got.length === 3)
    assert.deepStrictEqual(got.toSorted(), [1, 2, 3])
  }).pipe(Effect.scoped, Effect.provide(Layer.fresh(layer)))

/** How it is refused. */
const refusalOf = (options: Kafka.Options<"default">) =>
  Effect.gen(function* () {
    const before = performance.now()
    const exit = yield* Effect.exit(Effect.scoped(Layer.build(Layer.fresh(Kafka.layer(options)))))
    assert.isBelow(performance.now() - before, 5_000, "it is refused at once")
    if (Exit.isSuccess(exit)) return assert.fail("it is let in")
    const error = yield* Effect.flip(exit)
    return { tag: error.reason._tag, code: "code" in error.reason ? error.reason.code : undefined, text: error.message }
  })

describeWith("kafka", (kafka) => {
  const { bootstrap, mtls, oauth, sasl, tls } = kafka.urls

  it.live("TLS, with a certificate that is known", () =>
    Effect.gen(function* () {
      const ca = yield* certificateOf(tls)
      yield* worksOver(layerAt(tls, { tls: { ca } }))
    })
  )

  it.live("TLS, with a certificate that nobody vouches for, is a typed error that says so", () =>
    Effect.gen(function* () {
      const { tag, text } = yield* refusalOf({ brokers: [tls], tls: true, patience: "2 seconds" })
      assert.strictEqual(tag, "Unavailable")
      assert.match(text, /self.signed certificate/)
    })
  )

  it.live("a server that wants TLS and does not get it is a typed error that says so", () =>
    Effect.gen(function* () {
      const { text } = yield* refusalOf({ brokers: [tls], patience: "2 seconds" })
      assert.match(text, /TLS/)
    })
  )

  it.live("a user and a password, by PLAIN, and a wrong one", () =>
    Effect.gen(function* () {
      const ca = yield* certificateOf(sasl)
      const password = Redacted.make(user.password)
      yield* worksOver(layerAt(sasl, { tls: { ca }, sasl: { mechanism: "PLAIN", username: user.username, password } }))
      const wrong = yield* refusalOf({
        brokers: [sasl],
        tls: { ca },
        sasl: { mechanism: "PLAIN", username: user.username, password: "wrong" }
      })
      assert.deepInclude(wrong, { tag: "Rejected", code: "Denied" })
      assert.include(wrong.text, "check the user and password")
      assert.notInclude(wrong.text, "wrong")
    })
  )

  for (const mechanism of ["SCRAM-SHA-256", "SCRAM-SHA-512"] as const) {
    it.live(`a user and a password, by ${mechanism}, and a wrong one`, () =>
      Effect.gen(function* () {
        const ca = yield* certificateOf(sasl)
        const username = fresh()
        yield* makeUser(bootstrap, mechanism, username, "pencil")
        const options = (password: string) =>
          ({ brokers: [sasl], tls: { ca }, sasl: { mechanism, username, password } }) as const
        yield* worksOver(layerAt(sasl, options("pencil")))
        assert.deepInclude(yield* refusalOf(options("rubber")), { tag: "Rejected", code: "Denied" })
      })
    )
  }

  it.live("a certificate of the client, and none", () =>
    Effect.gen(function* () {
      const ca = yield* certificateOf(tls)
      // The server's own, which is the one that it trusts.
      const own = readFileSync(certificateFile(join(folder, "data", kafka.name)), "utf8")
      yield* worksOver(layerAt(mtls, { tls: { ca, cert: own, key: own } }))
      const { tag } = yield* refusalOf({ brokers: [mtls], tls: { ca }, patience: "2 seconds" })
      assert.strictEqual(tag, "Unavailable")
    })
  )

  it.live("a token, by OAUTHBEARER, which is asked for with each connection, and one that has expired", () =>
    Effect.gen(function* () {
      const ca = yield* certificateOf(tls)
      let asked = 0
      const options = (seconds: number) =>
        ({
          brokers: [oauth],
          tls: { ca },
          sasl: {
            mechanism: "OAUTHBEARER",
            token: async () => {
              asked++
              return tokenFor("test", seconds)
            }
          }
        }) as const
      yield* worksOver(layerAt(oauth, options(60)))
      assert.isAbove(asked, 1)
      const late = yield* refusalOf(options(-60))
      assert.deepInclude(late, { tag: "Rejected", code: "Denied" }, late.text)
      assert.include(late.text, "token is refused", late.text)
    })
  )

  it.live("a mechanism that the server does not have is a typed error that says so", () =>
    Effect.gen(function* () {
      const ca = yield* certificateOf(sasl)
      const { code, text } = yield* refusalOf({
        brokers: [sasl],
        tls: { ca },
        sasl: { mechanism: "OAUTHBEARER", token: "t" }
      })
      assert.strictEqual(code, "Denied", text)
      assert.include(text, "mechanism")
    })
  )
})
