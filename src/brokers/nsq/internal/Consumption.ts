/**
 * A subscription: it reads the topic and the group's own topic at each nsqd that has them, hands over what comes within its
 * credit, and settles it by the connection that it came by.
 */
import type * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Delivery, RawMessage, Settled, Settlement, SubscribeOptions } from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import * as Command from "../protocol/Command.ts"
import { ask } from "../protocol/Connection.ts"
import type { ServerError } from "../protocol/errors.ts"
import type { Message } from "../protocol/Message.ts"
import type { Copies } from "./Copies.ts"
import { needsTurns, spread } from "./Credit.ts"
import { rejected } from "./errors.ts"
import { NsqDelivery, type Session } from "./Session.ts"
import { decode } from "./Wire.ts"

/** What a subscription needs of the driver. */
export interface Parts {
  readonly clock: Clock.Clock
  readonly copies: Copies
  /** The longest that one step of a delay may be. */
  readonly longestStep: () => number
  /** Milliseconds that a message may wait at the server after its lease has begun. */
  readonly outputBufferTimeout: number
}

/** Milliseconds of a turn: enough for a server to hand over what it has. It lasts longer while something comes. */
export const turnMillis = 50
const longestTurn = 5
/** Milliseconds that a connection stays open after the server has confirmed that it hands over no more. */
const lingerMillis = 100

export class Consumption {
  /** What servers refuse to hand over, by what that is: until they do, although others may hand over what they have. */
  readonly refusals = new Map<string, BrokerError>()
  /** Why the topic is read nowhere, while it is not. */
  private away: BrokerError | undefined = undefined
  readonly options: SubscribeOptions
  readonly sessions: Array<Session> = []
  private readonly parts: Parts
  /** Handed over by servers, not handed on yet. */
  private buffer: Array<NsqDelivery> = []
  /** Handed on and not settled. */
  private held = 0
  private credit: number
  /** The connection whose turn it is, where there is too little credit for all at once. */
  private turn = 0
  private turnTicks = 0
  private wake: () => void = () => undefined
  /** Why nothing more can be taken, for good. */
  private over: BrokerError | undefined = undefined
  private readonly lostDeliveries: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>
  readonly lost: Stream.Stream<ReadonlyArray<Delivery>>

  constructor(options: SubscribeOptions, parts: Parts, lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>) {
    this.options = options
    this.parts = parts
    this.credit = options.credit
    this.lostDeliveries = lost
    this.lost = Stream.fromQueue(lost)
  }

  /** What keeps all or some from being received, or retries from being written. */
  get problem(): BrokerError | undefined {
    return this.away ?? this.refusals.values().next().value ?? this.parts.copies.problem
  }

  private now(): number {
    return Number(this.parts.clock.monotonicTimeNanosUnsafe()) / 1_000_000
  }

  private get about() {
    return { operation: "take", topic: this.options.topic }
  }

  opened(session: Session): void {
    this.sessions.push(session)
    if (!session.own) this.away = undefined
    this.balance()
  }

  /** Answers what it held that nobody had settled: to the server it may be gone. */
  ended(session: Session): ReadonlyArray<RawMessage> {
    const at = this.sessions.indexOf(session)
    if (at >= 0) this.sessions.splice(at, 1)
    const unsettled = [...session.unsettled.values()]
    session.unsettled.clear()
    this.buffer = this.buffer.filter((delivery) => delivery.session !== session)
    // Copies that are under way go on: what they are copies of may be gone.
    const held = unsettled.filter(({ state }) => state !== "retrying")
    this.lose(held)
    this.balance()
    return held.map(({ message }) => message)
  }

  /** A message has come. */
  receive(session: Session, message: Message): void {
    const now = this.now()
    const { id } = message
    const before = session.unsettled.get(id)
    // It comes again, so its time was over.
    if (before !== undefined) {
      session.unsettled.delete(id)
      this.lose([before])
    }
    const { message: raw, notBefore } = decode(message, this.options.topic)
    const early = notBefore > 0 ? notBefore - Date.now() : 0
    if (early > 0) return session.connection.send(Command.req(id, Math.ceil(Math.min(early, this.parts.longestStep()))))
    if (this.over !== undefined || this.credit === 0) return session.connection.send(Command.req(id, 0))
    const { features } = session.connection
    // Its lease began when the server took it out of the queue, which is a little before it came.
    const since = now - this.parts.outputBufferTimeout
    const lease = { endsAt: since + features.msgTimeout, lastEnd: since + features.maxMsgTimeout }
    const steps =
      notBefore > 0 ? 1 + Math.max(0, Math.ceil((notBefore - message.timestamp) / this.parts.longestStep())) : 0
    const delivery = new NsqDelivery(session, id, raw, Math.max(1, message.attempts - steps), lease)
    session.unsettled.set(id, delivery)
    this.buffer.push(delivery)
    if (session.heard(now)) this.balance()
    this.wake()
  }

  /** A settlement or TOUCH came too late. */
  readonly failed = (session: Session, { detail }: ServerError): void => {
    const id = /^(?:FIN|REQ|TOUCH) (\S{16}) /.exec(detail)?.[1]
    const delivery = id === undefined ? undefined : session.refused(id)
    if (delivery === undefined) return
    this.buffer = this.buffer.filter((one) => one !== delivery)
    this.lose([delivery])
    this.balance()
  }

  /** These are not ours any more; who has them is told. */
  private lose(deliveries: ReadonlyArray<NsqDelivery>): void {
    const told: Array<Delivery> = []
    for (const delivery of deliveries) {
      const { state } = delivery
      if (state === "held") this.held--
      if (state !== "buffered" && state !== "lost") told.push(delivery)
      delivery.state = "lost"
    }
    if (told.length > 0) Queue.offerUnsafe(this.lostDeliveries, told)
    this.wake()
  }

  /** Only the waiting is interruptible: what was picked is returned. */
  take(max: number, maxBytes: number): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> {
    const attempt: Effect.Effect<ReadonlyArray<Delivery>, BrokerError> = Effect.suspend(() => {
      if (this.over !== undefined) return Effect.fail(this.over)
      const picked = this.pick(max, maxBytes)
      return picked.length > 0 ? Effect.succeed(picked) : Effect.andThen(Effect.interruptible(this.change), attempt)
    })
    return Effect.uninterruptible(attempt)
  }

  private readonly change: Effect.Effect<void> = Effect.callback((resume) => {
    const wake = () => resume(Effect.void)
    this.wake = wake
    return Effect.sync(() => {
      if (this.wake === wake) this.wake = () => undefined
    })
  })

  private pick(max: number, maxBytes: number): ReadonlyArray<Delivery> {
    const room = Math.min(max, this.credit - this.held, this.buffer.length)
    let bytes = 0
    let count = 0
    while (count < room) {
      const delivery = this.buffer[count]
      if (delivery === undefined) break
      bytes += delivery.message.body.byteLength
      if (count > 0 && bytes > maxBytes) break
      delivery.state = "held"
      count++
    }
    this.held += count
    return count === this.buffer.length ? this.buffer.splice(0) : this.buffer.splice(0, count)
  }

  /**
   * The protocol confirms none of it: `Unconfirmed`. A retry is noted, and the message is not finished before its copy is
   * confirmed, however long that takes.
   */
  settle(settlements: ReadonlyArray<Settlement>): ReadonlyArray<Settled> {
    const wasTight = this.isTight
    const answers = settlements.map((settlement): Settled => {
      const { delivery } = settlement
      if (!(delivery instanceof NsqDelivery)) return "Lost"
      if (delivery.state === "held") this.settleOne(delivery, settlement)
      return delivery.state === "lost" ? "Lost" : "Unconfirmed"
    })
    if (wasTight || this.isTight) this.balance()
    this.wake()
    return answers
  }

  private settleOne(delivery: NsqDelivery, settlement: Settlement): void {
    const { session } = delivery
    this.held--
    switch (settlement._tag) {
      case "Acknowledge":
        return session.finish(delivery)
      case "Release":
        return session.requeue(delivery)
      case "Abandon":
        delivery.state = "abandoned"
        return
      case "Retry":
        return this.retry(delivery, settlement.envelope, settlement.delay)
    }
  }

  /** A stored message cannot be changed, so one with the new envelope takes its place. */
  private retry(delivery: NsqDelivery, envelope: Envelope, delay: number): void {
    if (!delivery.session.isOpen) {
      delivery.state = "lost"
      return
    }
    delivery.state = "retrying"
    const sent = this.parts.copies.send({ envelope, body: delivery.message.body }, delay, () => {
      const wasTight = this.isTight
      if (delivery.state === "retrying") delivery.session.finish(delivery)
      if (wasTight || this.isTight) this.balance()
    })
    // Its history does not fit beside it. It comes again as it was, and is counted by the server alone.
    if (!sent) delivery.session.requeue(delivery, Math.ceil(Math.min(delay, this.parts.longestStep())))
  }

  /** The new end of the lease, where it can be moved. */
  renew(deliveries: ReadonlyArray<Delivery>): ReadonlyArray<number | "Lost"> {
    const now = this.now()
    return deliveries.map((delivery) => {
      if (!(delivery instanceof NsqDelivery) || !delivery.session.isOpen) return "Lost"
      return delivery.state === "held" ? delivery.session.touch(delivery, now) : "Lost"
    })
  }

  setCredit(credit: number): void {
    // One that is over asks for nothing any more.
    this.credit = this.over === undefined ? credit : 0
    this.balance()
    if (this.credit === 0) this.giveBackExcess()
    this.wake()
  }

  /** Whether connections take turns. */
  get hasTurns(): boolean {
    return needsTurns(this.sessions, this.credit)
  }

  /** Whether each settlement may change what others may have. */
  private get isTight(): boolean {
    if (this.hasTurns) return true
    return this.sessions.some(({ inFlight, ready }) => inFlight > ready)
  }

  private balance(): void {
    const { sessions } = this
    const ready = spread(sessions, this.credit, this.turn)
    // Less before more.
    for (const [index, session] of sessions.entries()) {
      if ((ready[index] ?? 0) < session.ready) session.setReady(ready[index] ?? 0)
    }
    for (const [index, session] of sessions.entries()) session.setReady(ready[index] ?? 0)
  }

  /**
   * Others can have what is not wanted here: what came although there is no credit for it, since the server had sent it when
   * it heard that the credit is elsewhere.
   */
  private giveBackExcess(): void {
    const excess = this.buffer.splice(Math.max(0, this.credit - this.held))
    for (const delivery of excess) delivery.session.requeue(delivery)
  }

  /** Now and then: whose turn it is, who is idle, what is too much, and whose lease ends. */
  readonly tick: Effect.Effect<void> = Effect.sync(() => {
    const now = this.now()
    this.giveBackExcess()
    if (this.hasTurns) {
      const holder = this.sessions[this.turn % this.sessions.length]
      const works = holder !== undefined && now - holder.heardAt < turnMillis
      if (works && this.turnTicks < longestTurn) this.turnTicks++
      else {
        this.turn++
        this.turnTicks = 0
      }
    }
    for (const session of this.sessions) {
      session.rests(now)
      this.keepLeases(session, now)
    }
    // Always: what was held back from a connection may be there again by now.
    this.balance()
  })

  /** Who holds a message renews it; what waits here or for its copy is renewed here. */
  private keepLeases(session: Session, now: number): void {
    const { msgTimeout } = session.connection.features
    const late: Array<NsqDelivery> = []
    for (const delivery of session.unsettled.values()) {
      if (delivery.endsAt <= now) {
        late.push(delivery)
        continue
      }
      const { state } = delivery
      if (state !== "buffered" && state !== "retrying") continue
      if (delivery.endsAt - now > msgTimeout / 2) continue
      if (session.touch(delivery, now) - now > msgTimeout / 4 || state === "retrying") continue
      session.requeue(delivery)
    }
    for (const { id } of late) session.unsettled.delete(id)
    if (late.length > 0) this.lose(late)
    this.buffer = this.buffer.filter(({ state }) => state === "buffered")
  }

  /** Nothing more can be taken: its group was removed. */
  endWith(error: BrokerError): void {
    this.over ??= error
    // A channel that is made anew keeps what comes for who subscribes anew.
    this.credit = 0
    this.balance()
    this.giveBackExcess()
    this.wake()
  }

  /** Nothing can be read somewhere, now. */
  unreachable(problem: BrokerError): void {
    if (!this.sessions.some(({ own }) => !own)) this.away = problem
  }

  /** Gives back what is unsettled, except for what is abandoned: that comes back when its lease ends. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.over ??= rejected(this.about, "NoGroup", "the subscription is closed; subscribe anew")
    this.credit = 0
    this.balance()
    this.wake()
    Queue.endUnsafe(this.lostDeliveries)
    return this.parts.copies.idle.pipe(
      Effect.timeoutOption("5 seconds"),
      Effect.andThen(
        Effect.suspend(() =>
          Effect.forEach([...this.sessions], (session) => this.closeSession(session), { concurrency: "unbounded" })
        )
      ),
      Effect.asVoid
    )
  })

  private closeSession(session: Session): Effect.Effect<void> {
    return Effect.suspend(() => {
      const unsettled = [...session.unsettled.values()].filter(({ state }) => state !== "abandoned")
      for (const delivery of unsettled) {
        session.requeue(delivery)
        delivery.state = "lost"
      }
      session.closing = true
      const { connection } = session
      return ask(connection, Command.cls).pipe(
        // What the server had in its hands comes behind its answer. It is given back on arrival, as long as that can be said.
        Effect.andThen(Effect.sleep(lingerMillis)),
        Effect.andThen(Effect.sync(() => connection.end())),
        Effect.andThen(connection.closed),
        Effect.timeoutOption("2 seconds"),
        Effect.ignore
      )
    })
  }
}
