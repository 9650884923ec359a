/** A server that is too old: it is told at once, with what to do. */
import { createServer } from "node:net"
import { assert, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Kafka } from "millrace/kafka"

/** Answers the question which requests it knows, and closes the connection at every other one, as servers do. */
const serverThatKnows = (known: ReadonlyArray<readonly [key: number, most: number]>) =>
  Effect.acquireRelease(
    Effect.callback<{ readonly port: number; readonly close: () => void }>((resume) => {
      const server = createServer((socket) => {
        socket.on("error", () => undefined)
        socket.on("data", (request) => {
          if (request.readInt16BE(4) !== 18) return socket.destroy()
          const body = Buffer.alloc(4 + 2 + 1 + known.length * 7 + 4 + 1)
          body.writeInt32BE(request.readInt32BE(8), 0)
          body.writeUInt8(known.length + 1, 6)
          known.forEach(([key, most], i) => {
            body.writeInt16BE(key, 7 + i * 7)
            body.writeInt16BE(most, 7 + i * 7 + 4)
          })
          const size = Buffer.alloc(4)
          size.writeInt32BE(body.length)
          socket.write(Buffer.concat([size, body]))
        })
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ port, close: () => server.close() }))
      })
    }),
    ({ close }) => Effect.sync(close)
  )

it.live("Kafka 3.6, which has no groups by KIP-848, is Incompatible, and the error says which version does", () =>
  Effect.gen(function* () {
    const { port } = yield* serverThatKnows([
      [0, 10],
      [1, 15],
      [2, 8],
      [3, 12],
      [8, 8],
      [9, 8],
      [10, 4],
      [18, 3],
      [22, 4]
    ])
    const before = performance.now()
    const error = yield* Effect.flip(Layer.build(Kafka.layer({ brokers: [`127.0.0.1:${port}`] })))
    assert.isBelow(performance.now() - before, 5000)
    assert.deepInclude(error.reason, { _tag: "Rejected", code: "Incompatible" })
    assert.include(error.message, "ConsumerGroupHeartbeat")
    assert.include(error.message, "Kafka 4.0 or newer")
  })
)
