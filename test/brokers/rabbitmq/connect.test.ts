/** Connections: TLS, several nodes, and what is said when there is none. */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { connect, type Server } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createServer } from "node:tls"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Redacted } from "effect"
import type { BrokerError } from "millrace/Broker"
import { RabbitMq } from "millrace/rabbitmq"
import { describeWith } from "../services.ts"
import { driver } from "../support.ts"
import { byPort, codeOf, fresh, send } from "./support.ts"

const build = (layer: Layer.Layer<never, BrokerError>) => Effect.scoped(Layer.build(layer))
const buildError = (layer: Layer.Layer<never, BrokerError>) => Effect.flip(build(layer))

describe("the options of RabbitMQ", () => {
  it.effect("that are wrong are a defect, which says what is allowed", () =>
    Effect.gen(function* () {
      // As a JavaScript caller may.
      const wrong = {
        url: "http://127.0.0.1",
        heartbeat: -1,
        maxUnconfirmed: 0,
        priorities: 3,
        queueType: "stream"
      } as unknown as RabbitMq.Options<"default", undefined>
      const exit = yield* Effect.exit(build(RabbitMq.layer(wrong)))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
      for (const part of ["url must be one", "heartbeat must be", "maxUnconfirmed must be", "queueType must be"]) {
        assert.include(text, part)
      }
    })
  )

  it.live("a server that is not there is Unavailable, and the password is not said", () =>
    Effect.gen(function* () {
      const error = yield* buildError(RabbitMq.layer({ url: Redacted.make("amqp://user:s3cret@127.0.0.1:1") }))
      assert.strictEqual(error.reason._tag, "Unavailable")
      assert.include(error.message, "127.0.0.1:1")
      assert.notInclude(JSON.stringify(error) + Cause.pretty(Cause.fail(error)), "s3cret")
    })
  )
})

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp

  it.live("a wrong password is Denied; a virtual host that is not there is said", () =>
    Effect.gen(function* () {
      const password = new URL(url)
      password.password = "wrong"
      const denied = yield* buildError(RabbitMq.layer({ url: password.href }))
      assert.deepInclude(denied.reason, { _tag: "Rejected", code: "Denied" }, denied.message)
      const refused = yield* buildError(RabbitMq.layer({ url: `${url}/nowhere` }))
      assert.include(refused.message, "refused the virtual host")
    })
  )

  it.live("of several nodes the first that answers is used", () =>
    Effect.gen(function* () {
      const broker = yield* driver
      assert.strictEqual(broker.system, "rabbitmq")
    }).pipe(Effect.provide(RabbitMq.layer({ url: ["amqp://127.0.0.1:1", Redacted.make(url)] })))
  )

  it.live("after the layer has closed, what uses it says so at once", () =>
    Effect.gen(function* () {
      const broker = yield* Effect.provide(driver, RabbitMq.layer({ url }))
      assert.deepStrictEqual((yield* broker.publish([send(fresh(), "1")])).map(codeOf), ["Refused"])
      const error = yield* Effect.flip(broker.declare({ topic: fresh(), groups: [] }))
      assert.include(error.message, "the layer of this broker is closed")
    })
  )

  const hasOpenssl = (() => {
    try {
      return execFileSync("openssl", ["version"], { encoding: "utf8" }) !== ""
    } catch {
      return false
    }
  })()

  it.live.skipIf(!hasOpenssl)("TLS with an authority of one's own; without it the certificate is refused", () =>
    Effect.gen(function* () {
      const folder = yield* Effect.acquireRelease(
        Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-tls-"))),
        (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
      )
      const [keyFile, certFile] = [join(folder, "key.pem"), join(folder, "cert.pem")]
      const request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
      const names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", keyFile, "-out", certFile]
      execFileSync("openssl", [...request.split(" "), ...names], { stdio: "ignore" })
      const [key, cert] = [readFileSync(keyFile, "utf8"), readFileSync(certFile, "utf8")]
      // The server itself has no certificate: one that has speaks for it.
      const server = yield* Effect.acquireRelease(
        Effect.callback<Server>((resume) => {
          const server = createServer({ key, cert }, (socket) => {
            const inner = connect(Number(new URL(url).port), "127.0.0.1")
            for (const end of [socket, inner]) end.on("error", () => undefined)
            socket.pipe(inner).pipe(socket)
          }).listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      )
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      const secure = byPort(url, port).replace("amqp:", "amqps:").replace("127.0.0.1", "localhost")
      yield* Effect.gen(function* () {
        const topic = fresh()
        const broker = yield* driver
        yield* broker.declare({ topic, groups: ["g"] })
        assert.deepStrictEqual((yield* broker.publish([send(topic, "1")])).map(codeOf), ["Confirmed"])
      }).pipe(Effect.provide(RabbitMq.layer({ url: secure, socket: { ca: cert } })))
      const error = yield* buildError(RabbitMq.layer({ url: secure }))
      assert.match(error.message, /self-signed certificate/)
    }).pipe(Effect.scoped)
  )
})
