/** Connections that end before they have begun, or in the moment in which they begin. */
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { RabbitMq } from "millrace/rabbitmq"
import { describeWith } from "../services.ts"
import { driver, subscribe, take } from "../support.ts"
import type { Answer, Frame } from "./gate.ts"
import { closeFrame, gate } from "./gate.ts"
import { codeOf, fresh, send, until } from "./support.ts"

/** What the server says, and what the client waits for then. */
const steps = { "10.10": "connection.start", "10.30": "connection.tune", "10.41": "connection.open-ok" }

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp

  const ends: ReadonlyArray<readonly [string, (frame: Frame) => Answer]> = [
    ["it is reset", () => "reset"],
    ["it ends", () => "end"],
    ["it falls silent", () => "hold"],
    ["it is closed", () => closeFrame(320)],
    ["access is refused", () => closeFrame(403)],
    ["it is closed behind that", ({ bytes }) => Buffer.concat([bytes, closeFrame(320)])]
  ]
  for (const [method, name] of Object.entries(steps)) {
    for (const [what, answer] of ends) {
      it.live(
        `${what} at ${name}: an error with a type, tried again where there was a connection, and nothing left`,
        () =>
          Effect.gen(function* () {
            let broken = 1
            const way = yield* gate(url, (frame) => {
              if (broken === 0 || frame.method !== method) return "pass"
              broken--
              return answer(frame)
            })
            const layer = RabbitMq.layer({ url: way.url, connectTimeout: "500 millis", heartbeat: "1 second" })
            const { reason } = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
            const denied = what === "access is refused" && method === "10.30"
            assert.deepInclude(reason, denied ? { _tag: "Rejected", code: "Denied" } : { _tag: "Unavailable" })
            assert.strictEqual(broken, 0)
            yield* until("nothing is open", () => way.open() === 0)

            yield* Effect.gen(function* () {
              const topic = fresh()
              const broker = yield* driver
              const subscription = yield* subscribe(broker, { topic })
              broken = 4
              yield* way.cut
              yield* until("some tries were broken", () => broken === 0)
              assert.deepStrictEqual((yield* broker.publish([send(topic, "1")])).map(codeOf), ["Confirmed"])
              assert.deepStrictEqual(yield* take(subscription), ["1"])
            }).pipe(Effect.scoped, Effect.provide(layer))
            yield* until("nothing is open", () => way.open() === 0)
          }).pipe(Effect.scoped)
      )
    }
  }

  it.live("a connection that is closed while a channel of it closes holds up nobody", () =>
    Effect.gen(function* () {
      let broken = 0
      // The answer to the channel's end, which is the last step of a declaration.
      const way = yield* gate(url, ({ method }) => {
        if (broken === 0 || method !== "20.41") return "pass"
        broken--
        return closeFrame(320)
      })
      yield* Effect.gen(function* () {
        const topic = fresh()
        const broker = yield* driver
        broken = 1
        yield* Effect.timeout(broker.declare({ topic, groups: ["g"] }), "10 seconds")
        assert.strictEqual(broken, 0)
        assert.deepStrictEqual((yield* broker.publish([send(topic, "1")])).map(codeOf), ["Confirmed"])
      }).pipe(Effect.provide(RabbitMq.layer({ url: way.url })))
      yield* until("nothing is open", () => way.open() === 0)
    }).pipe(Effect.scoped)
  )
})
