/**
 * Sends messages and waits for their confirms: no more than the bounds allow, and none while the server is blocked.
 *
 * What is sent takes its own confirm, whoever waits for it. What is not sent yet waits for a connection as long as the settings
 * say, and goes when its publisher is interrupted.
 */
import type { ConfirmChannel } from "amqplib"
import type { Published } from "../../../messaging/Driver.ts"
import type { Connection } from "./Connection.ts"
import { rejected, unavailable } from "./errors.ts"
import type { Item, Traffic, Trouble } from "./Lane.ts"
import { Lane } from "./Lane.ts"
import type { Link } from "./Link.ts"
import { layerClosed } from "./Link.ts"
import type { Settings } from "./Settings.ts"
import type { Topology } from "./Topology.ts"

/** Declarations on the connection that is never blocked. */
export interface Declare {
  /** Declares what the message needs; resolves when that is done, rejects with a `BrokerError`. */
  readonly queueOf: (item: Item) => Promise<void>
  /** Declares again what this process has declared of the topic. */
  readonly restore: (item: Item) => Promise<void>
}

/** Milliseconds before a message that was refused is sent again, each time. */
const pauses = [50, 250]

export class Publisher implements Traffic {
  /** Sent and not confirmed. */
  unconfirmed = 0
  unconfirmedBytes = 0
  private readonly lanes = new Map<string, Lane>()
  /** Those that have something to send, in the order of their turns. */
  private readonly ready = new Set<Lane>()
  /** Those that have something to send and no channel, since there are as many as there may be; in the order of their turns. */
  private readonly queueing = new Set<Lane>()
  /** Those that were asked to give up their channels. */
  private readonly leaving = new Set<Lane>()
  private readonly link: Link
  private readonly settings: Settings
  private readonly topology: Topology
  private readonly declare: Declare
  private pumping = false

  constructor(link: Link, settings: Settings, topology: Topology, declare: Declare) {
    this.link = link
    this.settings = settings
    this.topology = topology
    this.declare = declare
    link.onChange = () => {
      if (link.current === undefined) this.failLate()
      this.wake()
    }
  }

  submit(item: Item): void {
    if (item.queue === undefined || this.topology.isDeclared(item.queue)) this.enqueue(item)
    else this.after(this.declare.queueOf(item), item)
  }

  /** Sends it when this is done. */
  private after(done: Promise<void>, item: Item): void {
    done.then(
      () => this.enqueue(item),
      (error) => this.end(item, { _tag: "Failed", error })
    )
  }

  private enqueue(item: Item): void {
    // It was cancelled meanwhile.
    if (item.state !== "waiting") return
    let lane = this.lanes.get(item.exchange)
    if (lane === undefined) {
      lane = new Lane(item.exchange, this)
      this.lanes.set(item.exchange, lane)
    }
    lane.add(item)
    this.ready.add(lane)
    this.wake()
  }

  /** Gives up what is not sent; what is sent takes its confirm. */
  cancel(items: ReadonlyArray<Item>): void {
    for (const item of items) {
      if (item.state !== "waiting") continue
      item.state = "ended"
      this.lanes.get(item.exchange)?.cancelled()
    }
  }

  /** Not sent yet. */
  get waiting(): number {
    return [...this.lanes.values()].reduce((sum, lane) => sum + lane.size, 0)
  }

  readonly wake = (): void => {
    if (this.pumping) return
    if (this.link.closed) {
      for (const lane of this.lanes.values()) lane.failAll(layerClosed)
      return
    }
    const { current } = this.link
    if (current === undefined || current.blocked !== undefined) return
    this.pumping = true
    try {
      for (const lane of this.ready) {
        if (lane.needsChannel) {
          this.ready.delete(lane)
          this.queueing.add(lane)
          continue
        }
        const { lastTurn } = lane
        const goesOn = lane.send(current)
        if (lane.isEmpty) {
          this.ready.delete(lane)
          this.forget(lane)
        } else if (goesOn || (lane.lastTurn !== lastTurn && this.ready.size > 1)) {
          // Its next turn comes after the others', also where there is no more room now.
          this.ready.delete(lane)
          this.ready.add(lane)
        }
      }
      if (this.queueing.size > 0) this.openChannels(current)
    } finally {
      this.pumping = false
    }
  }

  /** Opens channels, as many as there may be; for each that must wait, another lane is asked to give up its own. */
  private openChannels(connection: Connection): void {
    for (const lane of this.queueing) {
      if (connection.channels >= connection.mostChannels) break
      this.queueing.delete(lane)
      this.ready.add(lane)
      // What waits in it may have been given up meanwhile.
      if (lane.needsChannel) void lane.open(connection)
    }
    while (this.leaving.size < Math.min(this.queueing.size, connection.channels)) {
      const lane = this.leastNeeded()
      if (lane === undefined) return
      this.leaving.add(lane)
      lane.leave()
    }
  }

  /** Of the lanes with a channel one that has nothing to do, and of these, or else of all, the one whose turn is longest ago. */
  private leastNeeded(): Lane | undefined {
    let found: Lane | undefined
    for (const lane of this.lanes.values()) {
      if (!lane.canLeave) continue
      if (found === undefined || (lane.isIdle === found.isIdle ? lane.lastTurn < found.lastTurn : lane.isIdle))
        found = lane
    }
    return found
  }

  readonly closed = (lane: Lane): void => {
    this.leaving.delete(lane)
    this.ready.add(lane)
  }

  /** Where nothing is left of a lane, the next message of its exchange gets another one. */
  private forget(lane: Lane): void {
    if (lane.isOver && this.lanes.get(lane.exchange) === lane) this.lanes.delete(lane.exchange)
  }

  readonly hasRoom = (bytes: number): boolean => {
    const { maxUnconfirmed, maxUnconfirmedBytes } = this.settings
    if (this.unconfirmed >= maxUnconfirmed) return false
    return this.unconfirmed === 0 || this.unconfirmedBytes + bytes <= maxUnconfirmedBytes
  }

  readonly sent = (item: Item): void => {
    this.unconfirmed++
    this.unconfirmedBytes += item.content.byteLength
  }

  readonly answered = (item: Item, answer: Published | Trouble): void => {
    this.unconfirmed--
    this.unconfirmedBytes -= item.content.byteLength
    if (answer === "Returned") this.cameBack(item)
    else if (answer === "Refused") this.refused(item)
    else this.end(item, answer)
    if (this.ready.size > 0) this.wake()
  }

  readonly prepare = (channel: ConfirmChannel, exchange: string): Promise<void> =>
    exchange === "" ? Promise.resolve() : this.topology.restore(channel, exchange)

  private end(item: Item, answer: Published): void {
    item.state = "ended"
    item.done(answer)
  }

  /** No queue took it. Where this process knows which should have, that is declared and it is sent again, once. */
  private cameBack(item: Item): void {
    const { queue } = item
    const known = queue !== undefined || (item.exchange !== "" && this.topology.knowsGroups(item.exchange))
    if (item.again > 0 || !known) return this.end(item, { _tag: "Failed", error: noGroup(item) })
    item.again++
    item.returned = false
    item.state = "waiting"
    if (queue !== undefined) {
      this.topology.forgetQueue(queue.name)
      this.submit(item)
    } else this.after(this.declare.restore(item), item)
  }

  /**
   * One of its queues could not take it: it is full, or was being made, moved or deleted, which is soon over. Whether the others
   * have it is not known.
   */
  private refused(item: Item): void {
    const pause = pauses[item.again]
    if (pause === undefined) {
      const detail = "the server could not store it in each of its queues; one may be full. Others may have it"
      return this.end(item, { _tag: "Failed", error: unavailable(item.about, detail) })
    }
    item.again++
    item.state = "waiting"
    setTimeout(() => this.enqueue(item), pause)
  }

  /** Those that have waited for a connection for too long. */
  private failLate(): void {
    const { waitForConnection } = this.settings
    const now = Date.now()
    for (const lane of this.lanes.values()) {
      lane.failAll(
        (about) => unavailable(about, `there was no connection for ${waitForConnection} ms: ${this.link.problem}`),
        // It may have waited long before, for the server to take messages.
        ({ since }) => now - Math.max(since, this.link.lostAt) >= waitForConnection
      )
    }
  }
}

const noGroup = ({ about, exchange, routingKey }: Item) =>
  rejected(
    about,
    "NoGroup",
    exchange === ""
      ? `there is no queue "${routingKey}"; start a consumer of the group, or name it in the topic's groups`
      : `no group of "${exchange}" would keep it; start a consumer, or name the topic's groups where it is made`
  )
