/**
 * Sends messages to whichever nsqd there are, in turns, and waits for their answers.
 *
 * What comes together for one topic goes in MPUBs. An nsqd answers a command when it has the message, and closes the
 * connection on the first that it refuses: what was sent behind that one is not done, and is sent again elsewhere. What was
 * sent and lost its connection is not: whether it is there is not known, and only the program knows whether twice is better
 * than never.
 */
import type { Published } from "../../../messaging/Driver.ts"
import * as Command from "../protocol/Command.ts"
import type { Answer } from "../protocol/Connection.ts"
import { ServerError } from "../protocol/errors.ts"
import type { About } from "./errors.ts"
import { errorOf, unavailable } from "./errors.ts"
import type { Link } from "./Link.ts"
import type { Settings } from "./Settings.ts"

/** One message on its way. */
export interface Item {
  readonly about: About
  /** At the nsqd. */
  readonly topic: string
  /** The message as it is stored, with its size before it. */
  readonly bytes: Buffer
  /** Milliseconds from now before it is delivered, as far as one step can; 0 for at once. */
  delay: number
  /** Told once; never where it was cancelled before it was sent. */
  readonly done: (answer: Published) => void
  /** When it was handed over, by the clock of the process. */
  readonly since: number
  state: "waiting" | "sent" | "ended"
  /** In a command of its own: the server has refused it together with others. */
  alone: boolean
}

const confirmed: Published = { _tag: "Confirmed" }
/**
 * Most messages and bytes in one command. What waits goes in several commands rather than in one: while the server stores one,
 * the next is under way, and those who waited for the first prepare others.
 */
const mostMessages = 100
const mostBytes = 512 * 1024
/** Bytes that may wait for the network, so that large messages do not fill the memory. */
const mostUnsent = 8 * 1024 * 1024

export class Publisher {
  /** The longest that one step of a delay may be. */
  longestStep: number
  private readonly settings: Settings
  private readonly links: () => ReadonlyArray<Link>
  /** What waits, by topic, in the order of their turns. */
  private readonly lanes = new Map<string, Array<Item>>()
  private turn = 0
  private scheduled = false
  private closed = false

  constructor(settings: Settings, links: () => ReadonlyArray<Link>) {
    this.settings = settings
    this.links = links
    this.longestStep = settings.maxRequeueDelay
  }

  submit(item: Item): void {
    if (this.closed) return this.end(item, closedAnswer(item))
    const lane = this.lanes.get(item.topic)
    if (lane === undefined) this.lanes.set(item.topic, [item])
    else lane.push(item)
    this.wake()
  }

  /** Sends what it can when this turn of the program is over, so that what comes together goes together. */
  wake(): void {
    if (this.scheduled) return
    this.scheduled = true
    queueMicrotask(this.pump)
  }

  /** Gives up what is not sent; what is sent takes its answer. */
  cancel(items: ReadonlyArray<Item>): void {
    for (const item of items) if (item.state === "waiting") item.state = "ended"
  }

  get waiting(): number {
    let count = 0
    for (const lane of this.lanes.values()) for (const { state } of lane) if (state === "waiting") count++
    return count
  }

  private readonly pump = (): void => {
    this.scheduled = false
    for (const [topic, lane] of this.lanes) {
      let at = 0
      while (at < lane.length) {
        const link = this.nextLink()
        if (link === undefined) break
        const batch: Array<Item> = []
        at = collect(lane, at, Math.min(mostMessages, this.settings.maxUnconfirmed - link.unconfirmed), batch)
        if (batch.length > 0) this.send(link, topic, batch)
      }
      if (at === 0 && lane.length > 0) continue
      // What is left waits behind other topics.
      this.lanes.delete(topic)
      if (at < lane.length) this.lanes.set(topic, lane.slice(at))
    }
  }

  /** One that has room, each in its turn. */
  private nextLink(): Link | undefined {
    const links = this.links()
    for (let step = 0; step < links.length; step++) {
      const link = links[(this.turn + step) % links.length]
      if (link?.connection?.isOpen !== true || link.connection.unsent > mostUnsent) continue
      if (link.unconfirmed >= this.settings.maxUnconfirmed) continue
      this.turn = (this.turn + step + 1) % links.length
      return link
    }
    return undefined
  }

  private send(link: Link, topic: string, batch: ReadonlyArray<Item>): void {
    const [first] = batch
    if (first === undefined || link.connection === undefined) return
    link.unconfirmed += batch.length
    for (const item of batch) item.state = "sent"
    link.connection.request(this.commandOf(topic, first, batch), (answer) => {
      link.unconfirmed -= batch.length
      this.answered(batch, first, answer)
      if (this.lanes.size > 0) this.wake()
    })
  }

  private commandOf(topic: string, first: Item, batch: ReadonlyArray<Item>): ReadonlyArray<Uint8Array> {
    if (batch.length > 1) {
      return Command.mpubSized(
        topic,
        batch.map(({ bytes }) => bytes),
        batch.length
      )
    }
    const delay = Math.ceil(Math.min(first.delay, this.longestStep))
    return delay > 0 ? Command.dpubSized(topic, delay, first.bytes) : Command.pubSized(topic, first.bytes)
  }

  private answered(batch: ReadonlyArray<Item>, first: Item, answer: Answer): void {
    if (Buffer.isBuffer(answer)) {
      for (const item of batch) this.end(item, confirmed)
    } else if (answer === "NotDone") this.again(batch)
    else if (!(answer instanceof ServerError)) {
      for (const item of batch) {
        const detail = `${answer.message}; whether this message is there is not known`
        this.end(item, { _tag: "Failed", error: unavailable(item.about, detail, answer) })
      }
    } else if (batch.length > 1 && refusedWhole.has(answer.code)) {
      // One of them is too much, and which is told only one by one.
      for (const item of batch) item.alone = true
      this.again(batch)
    } else if (first.delay > 0 && this.learnStep(answer)) this.again(batch)
    else for (const item of batch) this.end(item, { _tag: "Failed", error: errorOf(item.about, answer) })
  }

  /** The server takes shorter delays than the options say, and says how long. */
  private learnStep({ detail }: ServerError): boolean {
    const most = Number(/^DPUB timeout \d+ out of range 0-(\d+)/.exec(detail)?.[1])
    if (!(most >= 1 && most < this.longestStep)) return false
    this.longestStep = most
    return true
  }

  private again(batch: ReadonlyArray<Item>): void {
    for (const item of batch) {
      item.state = "waiting"
      this.submit(item)
    }
  }

  private end(item: Item, answer: Published): void {
    item.state = "ended"
    item.done(answer)
  }

  /** Nothing is sent any more; who waits hears of it. */
  close(): void {
    this.closed = true
    const items = [...this.lanes.values()].flat()
    this.lanes.clear()
    for (const item of items) if (item.state === "waiting") this.end(item, closedAnswer(item))
  }

  /** Ends those that have waited for a connection for too long. */
  failLate(): void {
    const links = this.links()
    if (links.some(({ connection }) => connection?.isOpen)) return
    const now = Date.now()
    const { waitForConnection } = this.settings
    const problem = links.find(({ problem }) => problem !== undefined)?.problem
    for (const lane of this.lanes.values()) {
      for (const item of lane) {
        if (item.state !== "waiting" || now - item.since < waitForConnection) continue
        if (problem?._tag === "ServerError") {
          this.end(item, { _tag: "Failed", error: errorOf(item.about, problem) })
          continue
        }
        const detail = `not sent: there was no connection for ${waitForConnection} ms (${problem?.message ?? "no nsqd is known"})`
        this.end(item, { _tag: "Failed", error: unavailable(item.about, detail) })
      }
    }
    for (const [topic, lane] of this.lanes) {
      const left = lane.filter(({ state }) => state === "waiting")
      if (left.length > 0) this.lanes.set(topic, left)
      else this.lanes.delete(topic)
    }
  }
}

const closedAnswer = ({ about }: Item): Published => ({
  _tag: "Failed",
  error: unavailable(about, "not sent: the layer of this broker is closed")
})

/** Errors by which nothing of a batch was stored. */
const refusedWhole: ReadonlySet<string> = new Set(["E_BAD_MESSAGE", "E_BAD_BODY"])

/** Takes the next messages that can go in one command; answers where the rest begins. */
const collect = (lane: ReadonlyArray<Item>, from: number, most: number, batch: Array<Item>): number => {
  let bytes = 0
  let at = from
  for (; at < lane.length && batch.length < most; at++) {
    const item = lane[at]
    if (item === undefined || item.state !== "waiting") continue
    const single = item.alone || item.delay > 0
    bytes += item.bytes.byteLength
    if (batch.length > 0 && (single || bytes > mostBytes)) break
    batch.push(item)
    if (single) return at + 1
  }
  return at
}
