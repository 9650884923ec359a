/**
 * A network that fails on command: a TCP proxy on the loopback interface that cuts, stalls, refuses and slows down what
 * goes through it.
 *
 * **When to use**
 *
 * Use it to test what a client does when its server cannot be reached, above all when no error says so: point the client at
 * the proxy, and the proxy at the server.
 *
 * **Details**
 *
 * Faults hold for the connections that are there and for new ones, until `restore`; `cut` and `halfOpen` are events that
 * happen to the connections that are there. Time is real time, not that of a test clock. Everything is released with the scope:
 * connections are reset, the port is free.
 *
 * **Gotchas**
 *
 * While `stall` holds, new connections are accepted, since the operating system does that, but the server does not see them.
 *
 * **Example** (A server that seems to be there and does not answer)
 *
 * ```ts
 * import { createServer } from "node:http"
 * import { Effect } from "effect"
 * import { TcpProxy } from "millrace/testing"
 *
 * const server = createServer((_, response) => response.end("hello")).listen(0, "127.0.0.1")
 * await new Promise((resolve) => server.once("listening", resolve))
 * const address = server.address()
 * const port = typeof address === "object" && address !== null ? address.port : 0
 *
 * const program = Effect.gen(function*() {
 *   const proxy = yield* TcpProxy.make({ port })
 *   const ask = Effect.promise((signal) =>
 *     fetch(`http://127.0.0.1:${proxy.port}`, { signal }).then((response) => response.text()))
 *   yield* proxy.stall("toClient")
 *   const silence = yield* Effect.timeoutOption(ask, "50 millis")
 *   yield* proxy.restore
 *   return [silence._tag, yield* ask]
 * })
 *
 * const result = await Effect.runPromise(Effect.scoped(program))
 * server.close()
 * result // => ["None", "hello"]
 * ```
 */
import { createServer, type Server, type Socket } from "node:net"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { InvalidOption } from "../pool/PoolError.ts"
import type { Conditions } from "./internal/Lane.ts"
import { Link } from "./internal/Link.ts"

/** The proxy cannot listen: no port is free, or its own was taken while it refused connections. */
export class TcpProxyError extends Schema.TaggedError<TcpProxyError>("millrace/TcpProxyError")("TcpProxyError", {
  port: Schema.Number,
  reason: Schema.String
}) {
  override get message(): string {
    return `The proxy cannot listen on 127.0.0.1:${this.port}: ${this.reason}`
  }
}

/** A running proxy. */
export interface TcpProxy {
  readonly host: "127.0.0.1"
  /** Stays the same, whatever happens to the connections. */
  readonly port: number
  /** Connections of clients: those that are open now, and all that were ever accepted. */
  readonly connections: Effect.Effect<{ readonly open: number; readonly accepted: number }>
  /** Resets every connection, on both sides. New ones are accepted. */
  readonly cut: Effect.Effect<void>
  /**
   * A black hole: connections stay open and nothing flows, no end and no reset either. What was sent meanwhile arrives after
   * `restore`. Default both directions.
   */
  readonly stall: (direction?: "toServer" | "toClient" | "both") => Effect.Effect<void>
  /**
   * One side of every connection is gone, and the survivor is not told: its connection stays open and silent. `restore`
   * resets it, as a host does that gets packets of a connection it does not know. New connections are not affected.
   */
  readonly halfOpen: (survivor: "client" | "server") => Effect.Effect<void>
  /** Refuses new connections, as if nothing listened. Those that are there stay: with `cut` it is a server that went down. */
  readonly refuse: Effect.Effect<void>
  /**
   * Delays everything by `latency`, each way, and lets no more than `bytesPerSecond` through, in each direction of each
   * connection. What is left out is not limited.
   */
  readonly slow: (options: {
    readonly latency?: Duration.Input
    readonly bytesPerSecond?: number
  }) => Effect.Effect<void>
  /** Everything flows again, and new connections are accepted. Fails when the port was taken after `refuse`. */
  readonly restore: Effect.Effect<void, TcpProxyError>
}

/**
 * Starts a proxy on a free port of 127.0.0.1, in front of the target (default host 127.0.0.1). A target that cannot be reached
 * shows as a reset of the client's connection. Fails with `TcpProxyError` when no port is free; a target port that cannot be
 * one is a defect, `InvalidOption`.
 */
export const make = Effect.fnUntraced(function* (target: {
  readonly host?: string
  readonly port: number
}): Effect.fn.Return<TcpProxy, TcpProxyError, Scope.Scope> {
  if (!Number.isInteger(target.port) || target.port < 1 || target.port > 65_535) {
    return yield* Effect.die(
      new InvalidOption({
        operation: "TcpProxy.make",
        problem: `port must be a whole number from 1 to 65535, got ${format(target.port)}`
      })
    )
  }
  const conditions: Conditions = unlimited()
  const links = new Set<Link>()
  let accepted = 0

  const accept = (client: Socket): void => {
    accepted++
    const link = new Link(client, { host, ...target }, conditions)
    links.add(link)
    link.closed.then(() => links.delete(link))
  }
  const adjust = (change: Partial<Conditions>): void => {
    Object.assign(conditions, change)
    for (const link of links) link.go()
  }
  const resetAll = Effect.sync(() => {
    for (const link of links) link.reset()
  })

  let server: Server | undefined
  let over = false
  const refuse = Effect.sync(() => {
    server?.close()
    server = undefined
  })
  const reopen = Effect.uninterruptible(
    Effect.suspend(() => {
      if (server !== undefined || over) return Effect.void
      return Effect.map(listen(port, accept), (listening) => {
        server = listening
      })
    })
  )
  const port = yield* Effect.acquireRelease(
    Effect.map(listenAnywhere(accept), (listening) => {
      server = listening.server
      return listening.port
    }),
    () =>
      Effect.gen(function* () {
        over = true
        yield* refuse
        yield* resetAll
        yield* Effect.promise(() => Promise.all([...links].map((link) => link.closed)))
      })
  )

  return {
    host,
    port,
    connections: Effect.sync(() => ({ open: links.size, accepted })),
    cut: resetAll,
    stall: (direction = "both") =>
      Effect.sync(() =>
        adjust({
          stalled: {
            toServer: conditions.stalled.toServer || direction !== "toClient",
            toClient: conditions.stalled.toClient || direction !== "toServer"
          }
        })
      ),
    halfOpen: (survivor) =>
      Effect.sync(() => {
        for (const link of links) link.keepOnly(survivor)
      }),
    refuse,
    slow: ({ bytesPerSecond = Number.POSITIVE_INFINITY, latency = 0 }) =>
      Effect.sync(() => adjust({ bytesPerSecond, latency: Duration.toMillis(latency) })),
    restore: Effect.andThen(
      Effect.sync(() => {
        for (const link of links) link.resetOrphan()
        adjust(unlimited())
      }),
      reopen
    )
  }
})

const host = "127.0.0.1"

const unlimited = (): Conditions => ({
  stalled: { toServer: false, toClient: false },
  latency: 0,
  bytesPerSecond: Number.POSITIVE_INFINITY
})

const listen = (port: number, accept: (client: Socket) => void): Effect.Effect<Server, TcpProxyError> =>
  Effect.callback((resume) => {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, accept)
    server.on("error", (error) => resume(Effect.fail(new TcpProxyError({ port, reason: error.message }))))
    server.listen(port, host, () => resume(Effect.succeed(server)))
    return Effect.sync(() => server.close())
  })

/**
 * Not on a port that the system gives to outgoing connections: while the proxy refuses, a client that tries again could be
 * given this very port, connect to itself, and keep the proxy from it.
 */
const listenAnywhere = (accept: (client: Socket) => void) =>
  Effect.suspend(() => {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    return Effect.map(listen(port, accept), (server) => ({ server, port }))
  }).pipe(Effect.retry({ times: 50 }))
