/**
 * One channel with confirms, for one exchange: what goes wrong with that exchange goes wrong for its messages alone. The channel
 * is opened when there is something to send, and given up where others need one more.
 */
import type { ConfirmChannel, Message, Options } from "amqplib"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Published } from "../../../messaging/Driver.ts"
import type { Connection } from "./Connection.ts"
import type { About } from "./errors.ts"
import { errorOf, rejected, textOf, unavailable } from "./errors.ts"
import { bytesOf } from "./Headers.ts"
import type { Queue } from "./Topology.ts"
import { idOf } from "./Wire.ts"

/** One message on its way to the server. */
export interface Item {
  readonly about: About
  readonly id: string
  readonly exchange: string
  readonly routingKey: string
  readonly content: Buffer
  readonly properties: Options.Publish
  /** The queue that it goes to, where that is declared on first use. */
  readonly queue: Queue | undefined
  /** Told once; never where it was cancelled before it was sent. */
  readonly done: (answer: Published) => void
  /** When it was handed over, by the clock of the process. */
  since: number
  state: "waiting" | "sent" | "ended"
  /** The server had no queue for it. */
  returned: boolean
  /** How often it was sent again. */
  again: number
}

/** No queue would have it; or one of them could not take it now. */
export type Trouble = "Returned" | "Refused"

/** What a lane is a part of. */
export interface Traffic {
  /** Whether a message of so many bytes may be sent now. */
  readonly hasRoom: (bytes: number) => boolean
  readonly sent: (item: Item) => void
  /** The server has answered for a message that was sent, or never will. */
  readonly answered: (item: Item, answer: Published | Trouble) => void
  /** Before the first message of a channel: declares what this process has declared of the exchange. */
  readonly prepare: (channel: ConfirmChannel, exchange: string) => Promise<void>
  /** The channel of a lane is closed, or could not be opened. */
  readonly closed: (lane: Lane) => void
  /** There may be something to do. */
  readonly wake: () => void
}

const confirmed: Published = { _tag: "Confirmed" }
/** Messages that all lanes have sent. */
let turns = 0
/** Most messages that one lane sends before others have their turn. */
const atOnce = 64

export class Lane {
  readonly exchange: string
  private readonly traffic: Traffic
  private waiting: Array<Item> = []
  /** Those of `waiting` before this index are sent. */
  private head = 0
  /** Of those that wait, how many were given up. */
  private gone = 0
  private readonly unconfirmed = new Set<Item>()
  /** Those that could not be sent, until they are told. */
  private readonly unwritable: Array<readonly [Item, BrokerError]> = []
  private channel: ConfirmChannel | undefined = undefined
  private opening = false
  /** Gives up its channel, and sends no more by it. */
  private leaving = false
  /** Something was sent by its channel. */
  private hasSent = false
  /** When it last sent something, as a number that grows. */
  lastTurn = 0

  constructor(exchange: string, traffic: Traffic) {
    this.exchange = exchange
    this.traffic = traffic
  }

  get isEmpty(): boolean {
    return this.head >= this.waiting.length
  }

  /** How many wait to be sent. */
  get size(): number {
    return this.waiting.length - this.head - this.gone
  }

  add(item: Item): void {
    this.waiting.push(item)
  }

  /** One that waits was given up: it is skipped, and many of them are not kept. */
  cancelled(): void {
    this.gone++
    if (this.gone < atOnce || this.gone * 2 < this.waiting.length) return
    this.keep(this.waiting.filter(({ state }) => state === "waiting"))
  }

  private keep(items: Array<Item>): void {
    this.waiting = items
    this.head = 0
    this.gone = 0
  }

  /** Whether it has something to send, and a channel must be opened for it. */
  get needsChannel(): boolean {
    return this.channel === undefined && !this.opening && !this.leaving && !this.isEmpty
  }

  /** Whether its channel could be given up for another one: not before it was of use. */
  get canLeave(): boolean {
    return this.channel !== undefined && !this.leaving && (this.hasSent || this.isEmpty)
  }

  /** Whether nothing waits for it or for the server's answer. */
  get isIdle(): boolean {
    return this.isEmpty && this.unconfirmed.size === 0
  }

  /** Whether nothing is left of it. */
  get isOver(): boolean {
    return this.isIdle && this.channel === undefined && !this.opening && !this.leaving
  }

  /** Sends no more, and gives up its channel when all that was sent is confirmed. */
  leave(): void {
    this.leaving = true
    this.leaveWhenConfirmed()
  }

  private leaveWhenConfirmed(): void {
    const { channel } = this
    if (!this.leaving || channel === undefined || this.unconfirmed.size > 0) return
    this.channel = undefined
    // It says by itself when it is closed.
    channel.close().catch(() => undefined)
  }

  /** Sends what there is room for, up to a turn's worth; answers whether it may go on at once. */
  send(connection: Connection): boolean {
    const { channel } = this
    if (channel === undefined || this.leaving) return false
    connection.gather()
    let stopped = false
    for (let count = 0; count < atOnce; count++) {
      const item = this.waiting[this.head]
      if (item === undefined) break
      if (item.state === "waiting") {
        // Or the channel has ended meanwhile; it says so by itself.
        stopped = !this.traffic.hasRoom(item.content.byteLength) || !this.sendOne(connection, channel, item)
        if (stopped) break
      }
      this.head++
    }
    this.tellUnwritable()
    if (stopped) return false
    if (this.isEmpty) this.keep([])
    else if (this.head > 1024) this.keep(this.waiting.slice(this.head))
    return !this.isEmpty
  }

  /** False where the channel is closed, so that nothing was sent. */
  private sendOne({ mostProperties }: Connection, channel: ConfirmChannel, item: Item): boolean {
    try {
      if (mostProperties < Number.POSITIVE_INFINITY && bytesOf(item.properties) > mostProperties) {
        throw new RangeError(`this connection takes ${mostProperties} bytes of it (frame_max)`)
      }
      channel.publish(item.exchange, item.routingKey, item.content, item.properties, (error: unknown) => {
        if (error !== null) this.failed(channel, item, error)
        else this.end(item, item.returned ? "Returned" : confirmed)
      })
    } catch (error) {
      if (error instanceof Error && error.name === "IllegalOperationError") return false
      // What the client cannot write: too much of an envelope, most likely.
      const code = error instanceof RangeError ? "TooLarge" : "Refused"
      const detail = `its envelope cannot be written: ${textOf(error)}; send smaller headers`
      item.state = "ended"
      this.unwritable.push([item, rejected(item.about, code, detail, error)])
      return true
    }
    item.state = "sent"
    this.hasSent = true
    this.lastTurn = ++turns
    this.unconfirmed.add(item)
    this.traffic.sent(item)
    return true
  }

  /** Only when all is in order here: who hears of it may go on at once, and give up others or send more. */
  private tellUnwritable(): void {
    for (const [item, error] of this.unwritable.splice(0)) item.done({ _tag: "Failed", error })
  }

  private end(item: Item, answer: Published | Trouble): void {
    if (!this.unconfirmed.delete(item)) return
    this.leaveWhenConfirmed()
    this.traffic.answered(item, answer)
  }

  private failed(channel: ConfirmChannel, item: Item, error: unknown): void {
    if (textOf(error) === "message nacked") return this.end(item, "Refused")
    // The channel was closed. Why, the connection says later in this turn of the event loop, if it is the cause.
    if (this.channel === channel) this.channel = undefined
  }

  /** Opens a channel, and fails what waits for it where the server does not have the exchange. */
  async open(connection: Connection): Promise<void> {
    this.opening = true
    connection.channels++
    let channel: ConfirmChannel | undefined
    let closedBy: unknown
    try {
      channel = await connection.model.createConfirmChannel()
      const opened = channel
      channel.on("error", (error) => {
        closedBy = error
      })
      channel.on("handler-error", () => undefined)
      channel.on("return", (message) => this.returned(message))
      channel.on("close", () => {
        if (this.channel === opened) this.channel = undefined
        this.leaving = false
        connection.channels--
        queueMicrotask(() => this.closed(connection, closedBy))
      })
      await this.traffic.prepare(channel, this.exchange)
      if (connection.isOpen && closedBy === undefined) this.channel = channel
      this.hasSent = false
    } catch (error) {
      if (channel === undefined) connection.channels--
      channel?.close().catch(() => undefined)
      // Without a connection they wait for the next one.
      if (connection.isOpen) this.failAll((about) => errorOf(about, closedBy ?? error))
    } finally {
      this.opening = false
      if (this.channel === undefined) this.traffic.closed(this)
      this.traffic.wake()
    }
  }

  /** Which of those sent under one id it is does not matter: each of them is the same message. */
  private returned(message: Message): void {
    const id = idOf(message)
    for (const item of this.unconfirmed) {
      if (item.id !== id || item.returned || item.routingKey !== message.fields.routingKey) continue
      item.returned = true
      return
    }
  }

  /** What was sent and not confirmed has no answer any more. */
  private closed(connection: Connection, error: unknown): void {
    const reason = error === undefined ? (connection.reason ?? "the channel was closed") : textOf(error)
    const all = [...this.unconfirmed]
    const tooLarge = /message size (\d+) is larger than .*?max size (\d+)/.exec(reason)
    for (const item of all) {
      if (tooLarge !== null && item.content.byteLength === Number(tooLarge[1])) {
        const detail = `the payload has ${tooLarge[1]} bytes, and this server takes ${tooLarge[2]}; set maxMessageBytes to that`
        this.end(item, { _tag: "Failed", error: rejected(item.about, "TooLarge", detail) })
        continue
      }
      // Alone it is the one that the server refused. Among others, each may have been taken before that one.
      const certain = all.length === 1 && error !== undefined ? errorOf(item.about, error) : undefined
      const detail = `${reason}; whether this message is there is not known`
      this.end(item, {
        _tag: "Failed",
        error: certain?.reason._tag === "Rejected" ? certain : unavailable(item.about, detail, error)
      })
    }
    this.traffic.closed(this)
    this.traffic.wake()
  }

  /** Ends those that wait. */
  failAll(error: (about: About) => BrokerError, which: (item: Item) => boolean = () => true): void {
    const left: Array<Item> = []
    const failed: Array<Item> = []
    for (const item of this.waiting.slice(this.head)) {
      if (item.state === "waiting") (which(item) ? failed : left).push(item)
    }
    for (const item of failed) item.state = "ended"
    this.keep(left)
    // Who hears of it may send more at once.
    for (const item of failed) item.done({ _tag: "Failed", error: error(item.about) })
  }
}
