/**
 * One connection of a subscription: what was handed over by it can be settled by it, and by no other.
 */
import type { Delivery, RawMessage } from "../../../messaging/Driver.ts"
import * as Command from "../protocol/Command.ts"
import type { Connection } from "../protocol/Connection.ts"
import type { Share } from "./Credit.ts"

/**
 * - `buffered`: not handed over yet · `held`: handed over · `retrying`: settled, but a copy must be confirmed before the server
 *   is told · `abandoned`: its handler may still run · `settled` · `lost`: its connection has ended, or its time
 */
export type State = "buffered" | "held" | "retrying" | "abandoned" | "settled" | "lost"

/** A delivery, with what the driver must know to settle it. */
export class NsqDelivery implements Delivery {
  state: State = "buffered"
  readonly message: RawMessage
  readonly deliveries: number
  /** As it was when it came; `endsAt` moves. */
  readonly leaseEndsAt: number
  endsAt: number
  /** Until when it can be moved. */
  readonly lastEnd: number
  /** At the nsqd. */
  readonly id: string
  readonly session: Session

  constructor(
    session: Session,
    id: string,
    message: RawMessage,
    deliveries: number,
    lease: { readonly endsAt: number; readonly lastEnd: number }
  ) {
    this.session = session
    this.id = id
    this.message = message
    this.deliveries = deliveries
    this.leaseEndsAt = lease.endsAt
    this.endsAt = lease.endsAt
    this.lastEnd = lease.lastEnd
  }
}

/** What has been settled is remembered for a while, so that a settlement that came too late can be told. */
const remembered = 1024
/** Of payloads, since what is remembered keeps them. */
const rememberedBytes = 1024 * 1024
/** Milliseconds without a message after which a connection is not busy any more. */
const idleAfter = 1000

export class Session implements Share {
  readonly connection: Connection
  /** Whether it is that of the group's own topic. */
  readonly own: boolean
  /** Handed over by the server, by id. */
  readonly unsettled = new Map<string, NsqDelivery>()
  /** The RDY that the server knows. */
  ready = 0
  heardAt = Number.NEGATIVE_INFINITY
  busy = false
  /** It is being closed by us, so its end is no surprise. */
  closing = false
  private readonly settled = new Map<string, NsqDelivery>()
  private settledBytes = 0

  constructor(connection: Connection, own: boolean) {
    this.connection = connection
    this.own = own
  }

  get isOpen(): boolean {
    return this.connection.isOpen
  }

  get inFlight(): number {
    return this.unsettled.size
  }

  get most(): number {
    return this.connection.features.maxRdyCount
  }

  /** Whether it is busy for the first time since it was not. */
  heard(now: number): boolean {
    this.heardAt = now
    if (this.busy) return false
    this.busy = true
    return true
  }

  /** Whether it has ceased to be busy. */
  rests(now: number): boolean {
    if (!this.busy || this.unsettled.size > 0 || now - this.heardAt < idleAfter) return false
    this.busy = false
    return true
  }

  setReady(ready: number): void {
    if (this.ready === ready || this.closing) return
    this.ready = ready
    this.connection.send(Command.rdy(ready))
  }

  finish(delivery: NsqDelivery): void {
    this.settle(delivery, Command.fin(delivery.id))
  }

  /** Gives it back, for now or for later. */
  requeue(delivery: NsqDelivery, delay = 0): void {
    this.settle(delivery, Command.req(delivery.id, delay))
  }

  private settle(delivery: NsqDelivery, command: Uint8Array): void {
    const { id } = delivery
    // The same message may have come once more, and then this is another delivery.
    if (!this.isOpen || this.unsettled.get(id) !== delivery) {
      delivery.state = "lost"
      return
    }
    this.connection.send(command)
    this.unsettled.delete(id)
    delivery.state = "settled"
    this.forget(id)
    this.settled.set(id, delivery)
    this.settledBytes += delivery.message.body.byteLength
    for (const oldest of this.settled.keys()) {
      if (this.settled.size <= remembered && this.settledBytes <= rememberedBytes) break
      this.forget(oldest)
    }
  }

  private forget(id: string): void {
    const delivery = this.settled.get(id)
    if (delivery === undefined) return
    this.settled.delete(id)
    this.settledBytes -= delivery.message.body.byteLength
  }

  /** The server says that a message is not ours: the delivery that it was. */
  refused(id: string): NsqDelivery | undefined {
    const delivery = this.unsettled.get(id) ?? this.settled.get(id)
    this.unsettled.delete(id)
    this.forget(id)
    return delivery
  }

  /** Moves the end of its lease; answers the new one. */
  touch(delivery: NsqDelivery, now: number): number {
    const { lastEnd } = delivery
    const end = Math.min(now + this.connection.features.msgTimeout, lastEnd)
    if (end > delivery.endsAt) {
      this.connection.send(Command.touch(delivery.id))
      delivery.endsAt = end
    }
    return delivery.endsAt
  }
}
