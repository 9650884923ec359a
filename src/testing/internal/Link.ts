/**
 * One proxied connection: the client's own, the one to the server that belongs to it, and a lane each way.
 */
import { Socket } from "node:net"
import { type Conditions, Lane, reset } from "./Lane.ts"

export interface Target {
  readonly host: string
  readonly port: number
}

export class Link {
  /** Resolves when both sockets are closed. */
  readonly closed: Promise<unknown>
  private readonly client: Socket
  private readonly server = new Socket({ allowHalfOpen: true })
  private readonly lanes: ReadonlyArray<Lane>
  private readonly connect: () => void
  private readonly conditions: Conditions
  private connected = false
  private orphan = false

  constructor(client: Socket, target: Target, conditions: Conditions) {
    this.client = client
    this.conditions = conditions
    this.connect = () => this.server.connect({ ...target })
    this.server.setNoDelay(true)
    const close = (socket: Socket) => new Promise<void>((resolve) => socket.once("close", () => resolve()))
    this.closed = Promise.all([close(client), close(this.server)])
    // The "close" that follows is what counts.
    for (const socket of [client, this.server]) socket.on("error", () => undefined)
    this.lanes = [
      new Lane(client, this.server, "toServer", conditions),
      new Lane(this.server, client, "toClient", conditions)
    ]
    this.go()
  }

  /** After a change of the conditions. */
  go(): void {
    if (this.orphan) return
    if (!this.connected && !this.conditions.stalled.toServer) {
      this.connected = true
      this.connect()
    }
    for (const lane of this.lanes) lane.pump()
  }

  keepOnly(survivor: "client" | "server"): void {
    this.orphan = true
    for (const lane of this.lanes) lane.close()
    reset(survivor === "client" ? this.server : this.client)
  }

  resetOrphan(): void {
    if (this.orphan) this.reset()
  }

  reset(): void {
    for (const lane of this.lanes) lane.close()
    for (const socket of [this.client, this.server]) reset(socket)
  }
}
