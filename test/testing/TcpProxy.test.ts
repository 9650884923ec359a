/** The proxy between a real client and a real server: what each of the two sees of a fault. */
import { connect as connectTo, createServer, type Socket } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Scope } from "effect"
import { TcpProxy } from "millrace/testing"

interface Peer {
  readonly socket: Socket
  text: string
  /** How its connection ended, once it has. */
  end: string | undefined
}

/** What a side of a connection sees. */
const watch = (socket: Socket): Peer => {
  const peer: Peer = { socket, text: "", end: undefined }
  let how = "closed"
  socket.on("data", (chunk) => {
    peer.text += chunk.toString("latin1")
  })
  socket.on("error", (error: NodeJS.ErrnoException) => {
    how = error.code ?? error.message
  })
  socket.on("close", () => {
    peer.end = how
  })
  return peer
}

const until = (what: string, condition: () => boolean): Effect.Effect<void> =>
  Effect.gen(function* () {
    for (const began = performance.now(); !condition(); ) {
      if (performance.now() - began > 5000) assert.fail(`not within five seconds: ${what}`)
      yield* Effect.sleep("2 millis")
    }
  })

/** That nothing comes can only be seen by waiting for it. */
const aWhile = Effect.sleep("80 millis")

/** Answers with what it gets, and ends when the client ends. */
const echo = Effect.acquireRelease(
  Effect.promise(
    () =>
      new Promise<{ port: number; peers: Array<Peer>; close: () => void }>((resolve) => {
        const peers: Array<Peer> = []
        const server = createServer((socket) => {
          peers.push(watch(socket))
          socket.pipe(socket)
        })
        const close = () => {
          server.close()
          for (const peer of peers) peer.socket.destroy()
        }
        server.listen(0, "127.0.0.1", () => {
          const address = server.address()
          resolve({ port: typeof address === "object" ? (address?.port ?? 0) : 0, peers, close })
        })
      })
  ),
  (server) => Effect.sync(server.close)
)

const connect = (port: number) =>
  Effect.acquireRelease(
    Effect.callback<Peer, NodeJS.ErrnoException>((resume) => {
      const socket = connectTo({ port, host: "127.0.0.1", noDelay: true })
      const peer = watch(socket)
      socket.once("connect", () => resume(Effect.succeed(peer)))
      socket.once("error", (error) => resume(Effect.fail(error)))
    }),
    (peer) => Effect.sync(() => peer.socket.destroy())
  )

/** A server, a proxy in front of it, and a client whose connection has been used. */
const setting = Effect.gen(function* () {
  const server = yield* echo
  const proxy = yield* TcpProxy.make({ port: server.port })
  const client = yield* connect(proxy.port)
  client.socket.write("1")
  yield* until("an answer", () => client.text === "1")
  const peer = server.peers[0]
  assert.isDefined(peer)
  return { server, proxy, client, peer }
})

describe("TcpProxy", () => {
  it.live("forwards both ways, and the end of the stream; counts", () =>
    Effect.gen(function* () {
      const { client, peer, proxy } = yield* setting
      const second = yield* connect(proxy.port)
      second.socket.write("x")
      yield* until("a second answer", () => second.text === "x")
      assert.deepStrictEqual(yield* proxy.connections, { open: 2, accepted: 2 })

      client.socket.end("last")
      yield* until("both sides closed", () => client.end === "closed" && peer.end === "closed")
      assert.strictEqual(client.text, "1last")
      while ((yield* proxy.connections).open > 1) yield* Effect.sleep("2 millis")
      assert.deepStrictEqual(yield* proxy.connections, { open: 1, accepted: 2 })
    })
  )

  it.live("carries a lot, unchanged", () =>
    Effect.gen(function* () {
      const { client } = yield* setting
      const much = Array.from({ length: 2_000_000 }, (_, i) => String(i % 7919)).join(" ")
      client.socket.write(much)
      yield* until("all of it", () => client.text.length === much.length + 1)
      assert.isTrue(client.text === `1${much}`)
    })
  )

  it.live("a cut resets both sides; new connections pass", () =>
    Effect.gen(function* () {
      const { client, peer, proxy } = yield* setting
      yield* proxy.cut
      yield* until("both sides know", () => client.end === "ECONNRESET" && peer.end === "ECONNRESET")
      const next = yield* connect(proxy.port)
      next.socket.write("again")
      yield* until("an answer", () => next.text === "again")
    })
  )

  it.live("a reset of one side reaches the other as a reset", () =>
    Effect.gen(function* () {
      const { client, peer } = yield* setting
      peer.socket.resetAndDestroy()
      yield* until("the client knows", () => client.end === "ECONNRESET")
    })
  )

  it.live("a stall stops both directions; afterwards everything arrives, in order", () =>
    Effect.gen(function* () {
      const { client, peer, proxy } = yield* setting
      yield* proxy.stall()
      client.socket.write("2")
      peer.socket.write("from the server")
      yield* aWhile
      assert.strictEqual(peer.text, "1")
      assert.strictEqual(client.text, "1")
      client.socket.write("3")
      assert.isUndefined(client.end)
      yield* proxy.restore
      yield* until("an answer to all", () => client.text === "1from the server23")
    })
  )

  it.live("a stall of one direction lets the other pass", () =>
    Effect.gen(function* () {
      const { client, peer, proxy } = yield* setting
      yield* proxy.stall("toClient")
      client.socket.write("2")
      yield* until("the server has it", () => peer.text === "12")
      yield* aWhile
      assert.strictEqual(client.text, "1")

      yield* proxy.restore
      yield* until("an answer", () => client.text === "12")
      yield* proxy.stall("toServer")
      peer.socket.write("news")
      client.socket.write("3")
      yield* until("the client has it", () => client.text === "12news")
      yield* aWhile
      assert.strictEqual(peer.text, "12")
    })
  )

  it.live("a stall hides that the other side has closed, or was reset", () =>
    Effect.gen(function* () {
      const { client, peer, proxy, server } = yield* setting
      const other = yield* connect(proxy.port)
      yield* until("the server sees both", () => server.peers.length === 2)
      yield* proxy.stall()
      peer.socket.end()
      server.peers[1]?.socket.resetAndDestroy()
      yield* aWhile
      assert.isUndefined(client.end)
      assert.isUndefined(other.end)
      yield* proxy.restore
      yield* until("the clients know", () => client.end === "closed" && other.end === "ECONNRESET")
    })
  )

  it.live("a connection made during a stall reaches the server afterwards", () =>
    Effect.gen(function* () {
      const { proxy, server } = yield* setting
      yield* proxy.stall()
      const late = yield* connect(proxy.port)
      late.socket.write("hello?")
      yield* aWhile
      assert.strictEqual(server.peers.length, 1)
      yield* proxy.restore
      yield* until("an answer", () => late.text === "hello?")
    })
  )

  it.live("a sender is held back by a stall, not buffered without end", () =>
    Effect.gen(function* () {
      const { client, proxy } = yield* setting
      yield* proxy.stall()
      const block = Buffer.alloc(1 << 20)
      for (let i = 0; i < 64; i++) client.socket.write(block)
      yield* aWhile
      // What is not with the client any more is in the buffers of the system and of the proxy.
      assert.isAbove(client.socket.writableLength, 40 << 20)
    })
  )

  it.live("half-open, the client survives: it is not told that its server is gone", () =>
    Effect.gen(function* () {
      const { client, peer, proxy } = yield* setting
      yield* proxy.halfOpen("client")
      yield* until("the server side is gone", () => peer.end === "ECONNRESET")
      client.socket.write("are you there?")
      yield* aWhile
      assert.isUndefined(client.end)
      assert.strictEqual(client.text, "1")

      const next = yield* connect(proxy.port)
      next.socket.write("new")
      yield* until("a new connection works", () => next.text === "new")
      yield* proxy.restore
      yield* until("the client knows", () => client.end === "ECONNRESET")
      assert.isUndefined(next.end)
    })
  )

  it.live("half-open, the server survives: it is not told that its client is gone", () =>
    Effect.gen(function* () {
      const { client, peer, proxy } = yield* setting
      yield* proxy.halfOpen("server")
      yield* until("the client side is gone", () => client.end === "ECONNRESET")
      yield* aWhile
      assert.isUndefined(peer.end)
      yield* proxy.cut
      yield* until("the server knows", () => peer.end === "ECONNRESET")
    })
  )

  it.live("refuses new connections, keeps the old ones, and comes back on its port", () =>
    Effect.gen(function* () {
      const { client, proxy } = yield* setting
      yield* proxy.refuse
      const refused = yield* Effect.flip(connect(proxy.port))
      assert.strictEqual(refused.code, "ECONNREFUSED")
      client.socket.write("2")
      yield* until("an answer", () => client.text === "12")
      yield* proxy.restore
      const next = yield* connect(proxy.port)
      next.socket.write("back")
      yield* until("an answer", () => next.text === "back")
    })
  )

  it.live("says so when its port was taken meanwhile", () =>
    Effect.gen(function* () {
      const { proxy } = yield* setting
      yield* proxy.refuse
      const thief = createServer()
      yield* Effect.acquireRelease(
        Effect.promise(() => new Promise<void>((resolve) => thief.listen(proxy.port, "127.0.0.1", resolve))),
        () => Effect.sync(() => thief.close())
      )
      const error = yield* Effect.flip(proxy.restore)
      assert.strictEqual(error._tag, "TcpProxyError")
      assert.include(error.message, `127.0.0.1:${proxy.port}`)
    })
  )

  it.live("latency delays each way and does not add up", () =>
    Effect.gen(function* () {
      const { client, proxy } = yield* setting
      yield* proxy.slow({ latency: "60 millis" })
      const [time] = yield* Effect.timed(
        Effect.gen(function* () {
          for (let i = 2; i < 10; i++) {
            client.socket.write(String(i))
            yield* Effect.sleep("5 millis")
          }
          yield* until("all answers", () => client.text === "123456789")
        })
      )
      assert.isAtLeast(Duration.toMillis(time), 120)
      // Eight round trips one after the other would take 960.
      assert.isBelow(Duration.toMillis(time), 900)
      yield* proxy.restore
      client.socket.end()
      yield* until("the end", () => client.end === "closed")
    })
  )

  it.live("bandwidth is limited, and restored", () =>
    Effect.gen(function* () {
      const { client, proxy } = yield* setting
      yield* proxy.slow({ bytesPerSecond: 200_000 })
      client.socket.write("x".repeat(50_000))
      const [time] = yield* Effect.timed(until("all of it", () => client.text.length === 50_001))
      assert.isAtLeast(Duration.toMillis(time), 200)
      assert.isBelow(Duration.toMillis(time), 2000)
      yield* proxy.slow({ bytesPerSecond: 10 })
      client.socket.write("y".repeat(50_000))
      yield* aWhile
      assert.isBelow(client.text.length, 50_100)
      yield* proxy.restore
      yield* until("the rest", () => client.text.length === 100_001)
    })
  )

  it.live("a target that cannot be reached resets the client", () =>
    Effect.gen(function* () {
      const { port } = yield* Effect.scoped(echo)
      const proxy = yield* TcpProxy.make({ port })
      const client = yield* connect(proxy.port)
      yield* until("the client knows", () => client.end === "ECONNRESET")
      assert.strictEqual((yield* proxy.connections).accepted, 1)
    })
  )

  for (const port of [0, -1, 1.5, 70_000, Number.NaN]) {
    it.effect(`a target port of ${port} is a defect`, () =>
      Effect.gen(function* () {
        const exit = yield* Effect.exit(TcpProxy.make({ port }))
        assert.isTrue(Exit.hasDies(exit))
        assert.include(String(exit), "port must be a whole number from 1 to 65535")
      })
    )
  }

  for (const fault of ["none", "stall", "halfOpen", "refuse", "slow"] as const) {
    it.live(`everything is released with the scope; fault: ${fault}`, () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const server = yield* echo
        const proxy = yield* Scope.provide(TcpProxy.make({ port: server.port }), scope)
        const client = yield* connect(proxy.port)
        client.socket.write("1")
        yield* until("an answer", () => client.text === "1")
        if (fault === "stall") yield* proxy.stall()
        if (fault === "halfOpen") yield* proxy.halfOpen("server")
        if (fault === "refuse") yield* proxy.refuse
        if (fault === "slow") yield* proxy.slow({ latency: "1 hour", bytesPerSecond: 1 })
        const late = fault === "refuse" ? undefined : yield* connect(proxy.port)
        client.socket.write("2")

        yield* Scope.close(scope, Exit.void)
        yield* until("both sides know", () => client.end !== undefined && server.peers[0]?.end !== undefined)
        yield* until("the late one too", () => late === undefined || late.end !== undefined)
        assert.strictEqual((yield* proxy.connections).open, 0)
        yield* proxy.restore
        assert.strictEqual((yield* Effect.flip(connect(proxy.port))).code, "ECONNREFUSED")
      })
    )
  }
})
