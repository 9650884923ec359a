/**
 * Connections of subscriptions that would take all others down with them: the server closes the whole connection of whoever
 * wants to consume from a queue that is sick.
 */
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Connection } from "./Connection.ts"
import { open } from "./Connection.ts"
import type { Settings } from "./Settings.ts"

export class Aside {
  private readonly settings: Settings
  private readonly connections = new Set<Connection>()
  private readonly turn = Semaphore.makeUnsafe(1)
  private closed = false

  constructor(settings: Settings) {
    this.settings = settings
  }

  /** Those that a connection was closed under begin one after the other, so that it shows which of them it is. */
  oneByOne<A, E>(begin: Effect.Effect<A, E>): Effect.Effect<A, E> {
    return this.turn.withPermit(begin)
  }

  /** Opens a connection that is nobody else's, and hands it over in the moment that it is open. */
  open(use: (connection: Connection) => void): Effect.Effect<void, BrokerError> {
    return open(this.settings, (connection) => {
      // Too late: nobody would close it.
      if (this.closed) return void Effect.runFork(connection.close)
      this.connections.add(connection)
      connection.listen(() => {
        if (!connection.isOpen) this.connections.delete(connection)
      })
      use(connection)
    })
  }

  /** With the layer: until then they keep what was abandoned. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.closed = true
    return Effect.forEach([...this.connections], ({ close }) => close, { concurrency: "unbounded", discard: true })
  })
}
