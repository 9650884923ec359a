/** Connections: TLS, several nodes, and what is said when there is none. */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Redacted } from "effect"
import type { BrokerError } from "millrace/Broker"
import { RabbitMq } from "millrace/rabbitmq"
import { describeWith } from "../services.ts"
import { driver, subscribe, take } from "../support.ts"
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
        order: "key",
        queueType: "stream"
      } as unknown as RabbitMq.Options<"default", undefined>
      const exit = yield* Effect.exit(build(RabbitMq.layer(wrong)))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      const text = Exit.isFailure(exit) ? Cause.pretty(exit.cause) : ""
      for (const part of [
        "url must be one",
        "heartbeat must be",
        "maxUnconfirmed must be",
        "queueType must be",
        "order must be"
      ]) {
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

  /** An authority, and what it has signed: files of a folder, `ca.pem`, `server.pem`, `server.key` and so on. */
  const certificates = Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-tls-"))),
      (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
    ),
    (folder) => {
      const make = (name: string, ...more: ReadonlyArray<string>) => {
        const request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(" ")
        const files = ["-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.pem`]
        execFileSync("openssl", [...request, ...files, ...more], { cwd: folder, stdio: "ignore" })
      }
      make("ca")
      const signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
      make("server", ...signed, "-addext", "subjectAltName=DNS:localhost")
      make("client", ...signed)
      return { folder, text: (file: string) => readFileSync(join(folder, file), "utf8") }
    }
  )

  const freePort = Effect.callback<number>((resume) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const address = server.address()
      server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
    })
  })

  /** The server listens for those that have a certificate of the authority too; answers the port. */
  const listening = (folder: string) =>
    Effect.gen(function* () {
      const port = yield* freePort
      const evaluate = (erlang: string) => rabbitmq.exec(["rabbitmqctl", "-q", "eval", erlang])
      const files = ["cacertfile,ca.pem", "certfile,server.pem", "keyfile,server.key"].map((entry) => {
        const [name, file] = entry.split(",")
        return `{${name},"${join(folder, file ?? "")}"}`
      })
      const options = [...files, "{verify,verify_peer}", "{fail_if_no_peer_cert,true}"]
      yield* Effect.acquireRelease(
        evaluate(`rabbit_networking:start_ssl_listener({"127.0.0.1", ${port}}, [${options}], 2).`),
        () =>
          evaluate(
            `[{supervisor:terminate_child(rabbit_sup, Id), supervisor:delete_child(rabbit_sup, Id)} ||
              {Id, _, _, _} <- supervisor:which_children(rabbit_sup),
              string:find(io_lib:format("~p", [Id]), "${port}") =/= nomatch].`
          )
      )
      return port
    })

  it.live.skipIf(!hasOpenssl)("TLS, with certificates on both sides; without one of them there is no connection", () =>
    Effect.gen(function* () {
      const { folder, text } = yield* certificates
      const port = yield* listening(folder)
      const secure = byPort(url, port).replace("amqp:", "amqps:").replace("127.0.0.1", "localhost")
      const [ca, cert, key] = [text("ca.pem"), text("client.pem"), text("client.key")]
      yield* Effect.gen(function* () {
        const topic = fresh()
        const broker = yield* driver
        yield* broker.declare({ topic, groups: ["g"] })
        assert.deepStrictEqual((yield* broker.publish([send(topic, "1")])).map(codeOf), ["Confirmed"])
        assert.deepStrictEqual(yield* take(yield* subscribe(broker, { topic })), ["1"])
        const connections = yield* rabbitmq.exec(["rabbitmqctl", "-q", "list_connections", "ssl", "peer_cert_subject"])
        assert.include(connections, "true\tCN=client")
      }).pipe(Effect.scoped, Effect.provide(RabbitMq.layer({ url: secure, socket: { ca, cert, key } })))
      const unknownServer = yield* buildError(RabbitMq.layer({ url: secure, socket: { cert, key } }))
      assert.match(unknownServer.message, /self-signed certificate|unable to verify/)
      const unknownClient = yield* buildError(RabbitMq.layer({ url: secure, socket: { ca } }))
      assert.match(unknownClient.message, /certificate required/)
    }).pipe(Effect.scoped)
  )
})
