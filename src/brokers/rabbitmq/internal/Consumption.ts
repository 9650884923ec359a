/**
 * A subscription that outlives its channels: it opens another one whenever one ends, and says which deliveries went with it.
 */

import type { ConsumeMessage } from "amqplib"
import type * as Cause from "effect/Cause"
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type {
  Backlog,
  Delivery,
  Published,
  RawMessage,
  Settled,
  Settlement,
  SubscribeOptions
} from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"
import { bare, isTooLarge, terse, withoutAttempts } from "../../../messaging/shortened.ts"
import type { Aside } from "./Aside.ts"
import { Buffer } from "./Buffer.ts"
import type { Connection } from "./Connection.ts"
import { errorOf, rejected, textOf, unavailable } from "./errors.ts"
import type { Link } from "./Link.ts"
import { layerClosed } from "./Link.ts"
import { RabbitDelivery, Session } from "./Session.ts"
import type { Settings } from "./Settings.ts"
import type { Topology } from "./Topology.ts"
import { deliveriesOf, messageOf } from "./Wire.ts"

/**
 * Milliseconds before a channel is closed. The server drops acknowledgements that it has not yet passed on to a quorum queue
 * with their channel, and delivers those messages again.
 */
const passedOn = 100

/**
 * With order by key: messages handed out to the one process that receives. What a process leaves behind, the next one must get
 * in one piece: a quorum queue puts what it takes back behind what it has taken back before. So this is the same for all, and
 * not the credit; a key that waits holds up others only with as many messages.
 */
const handedOut = 1000

/** Whether somebody has it, to whom its loss is news. */
const isHandedOver = ({ state }: RabbitDelivery): boolean => state === "held" || state === "abandoned"
const sessionOf = ({ session }: RabbitDelivery): Session => session

/** So often the server fails inside when a subscription begins, before that is put down to its queue. */
const enough = 2

/** Between two tries to consume; short, so that consumption goes on within seconds. */
const untilConsuming = Schedule.jittered(
  Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("2 seconds")])
)

/** What a subscription needs of the driver. */
export interface Parts {
  readonly link: Link
  readonly aside: Aside
  readonly settings: Settings
  readonly topology: Topology
  readonly clock: Clock.Clock
  /** Sends a copy of a message to be delivered to the group after the delay; told once how that went. */
  readonly retry: (
    delivery: RabbitDelivery,
    envelope: Envelope,
    delay: number,
    done: (answer: Published) => void
  ) => void
  /** Sends a dead letter in place of a message; told once how that went. */
  readonly setAside: (delivery: RabbitDelivery, envelope: Envelope, done: (answer: Published) => void) => void
  readonly log: (message: string, error: BrokerError) => void
}

const unacknowledged = "a message was not acknowledged in the server's time; all are given back"

export class Consumption {
  /** What keeps it from receiving, while something does. */
  problem: BrokerError | undefined = undefined
  readonly options: SubscribeOptions
  private readonly parts: Parts
  private session: Session | undefined = undefined
  /** Handed out by the server, not handed over yet. */
  private readonly buffer: Buffer
  private readonly ordered: boolean
  /** With order by key: what was tried here before the channel ended, by id, since the server knows nothing of it. */
  private tried: ReadonlyMap<string, RabbitDelivery> = new Map()
  /** Handed over and not settled. */
  private held = 0
  private credit: number
  private taking: (() => void) | undefined = undefined
  /** Something has happened since it was last looked what may be handed over. */
  private changed = false
  /** When it was last looked. */
  private pickedAt = 0
  private onSessionEnd: () => void = () => {}
  /** Why nothing more can be taken, for good. */
  private over: BrokerError | undefined = undefined
  /** Copies that are not confirmed yet. */
  private retrying = 0
  private onRetried: () => void = () => {}
  /** How often in a row the server failed inside when it began. */
  private failedInside = 0
  /** Its own connection, once it had failed so often that it must be its queue. */
  private own: Connection | undefined = undefined
  private readonly lostDeliveries: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>
  readonly lost: Stream.Stream<ReadonlyArray<Delivery>>
  private arrived = 0

  constructor(options: SubscribeOptions, parts: Parts, lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>) {
    this.options = options
    this.parts = parts
    this.credit = options.credit
    this.buffer = new Buffer(options)
    this.ordered = options.order === "key"
    this.lostDeliveries = lost
    this.lost = Stream.fromQueue(lost)
  }

  get isConsuming(): boolean {
    return this.over === undefined && this.problem === undefined
  }

  private now(): number {
    return Number(this.parts.clock.monotonicTimeNanosUnsafe()) / 1_000_000
  }

  private get about() {
    return { operation: "take", topic: this.options.topic }
  }

  private get name(): string {
    return `group "${this.options.group}" of topic "${this.options.topic}"`
  }

  /** Opens a channel and consumes. Interrupted, it is closed. */
  readonly begin: Effect.Effect<void, BrokerError> = Effect.suspend(() => {
    if (this.failedInside >= enough) return this.beginAside
    const begin = Effect.flatMap(this.parts.link.connected({ ...this.about, operation: "subscribe" }), (connection) =>
      this.openSession(connection)
    )
    return this.failedInside === 0 ? begin : this.parts.aside.oneByOne(begin)
  })

  /** The same on a connection of its own, which nobody else suffers from. It keeps that for good: its queue may be sick again. */
  private readonly beginAside: Effect.Effect<void, BrokerError> = Effect.suspend(() => {
    if (this.parts.link.closed) return Effect.fail(layerClosed(this.about))
    if (this.own?.isOpen === true) return this.openSession(this.own)
    const open = this.parts.aside.open((connection) => {
      this.own = connection
    })
    return Effect.andThen(
      open,
      Effect.suspend(() => (this.own === undefined ? Effect.fail(layerClosed(this.about)) : this.openSession(this.own)))
    )
  })

  private openSession(connection: Connection): Effect.Effect<void, BrokerError> {
    return Effect.tryPromise({
      try: (signal) => this.consumeOn(connection, signal),
      catch: (error) => errorOf({ ...this.about, operation: "subscribe" }, error)
    }).pipe(
      Effect.tapError(() => {
        if (!connection.failedInside || ++this.failedInside !== enough) return Effect.void
        return Effect.logWarning(
          `RabbitMQ: the server closes the connection when ${this.name} begins, so it gets one of its own; is its queue available?`
        )
      }),
      Effect.tap(() =>
        Effect.sync(() => {
          if (connection !== this.own) this.failedInside = 0
        })
      )
    )
  }

  private async consumeOn(connection: Connection, signal: AbortSignal): Promise<void> {
    const { settings, topology } = this.parts
    const { group, topic } = this.options
    const channel = await connection.model.createChannel()
    const queue = topology.queue({ topic, group })
    const session = new Session(
      channel,
      queue.name,
      {
        onMessage: (session, message) => this.receive(session, message, settings.queueType === "quorum"),
        onEnd: (session) => this.ended(session)
      },
      () => connection.reason
    )
    try {
      await topology.declare(channel, topic, [group])
      // The client may not have told yet.
      if (this.session !== undefined) this.ended(this.session)
      this.session = session
      await session.setCredit(this.wanted)
    } catch (error) {
      if (this.session === session) this.session = undefined
      session.end(textOf(error))
      throw error
    }
    if (signal.aborted) session.end("it was interrupted")
  }

  /** The credit that the server is told. It is not told of less: with order by key nobody else may receive meanwhile. */
  private get wanted(): number {
    return this.ordered && this.credit > 0 ? handedOut : this.credit
  }

  /** Keeps it consuming, for ever. */
  readonly keep: Effect.Effect<never> = Effect.forever(
    Effect.suspend(() =>
      Effect.gen({ self: this }, function* () {
        const reason = yield* this.sessionEnd
        if (this.parts.link.closed) this.endWith(layerClosed(this.about))
        if (this.over !== undefined) return yield* Effect.never
        this.problem = unavailable(this.about, `consumption stopped (${reason}); it begins again by itself`)
        yield* Effect.logWarning(`RabbitMQ: ${this.name} stopped consuming (${reason}); it begins again`)
        yield* this.begin.pipe(
          Effect.tapError((error) =>
            Effect.sync(() => {
              this.problem = error
            })
          ),
          Effect.retry(untilConsuming),
          // The schedule never ends.
          Effect.orDie
        )
        this.problem = undefined
        yield* Effect.logInfo(`RabbitMQ: ${this.name} consumes again`)
      })
    )
  )

  private readonly sessionEnd: Effect.Effect<string> = Effect.callback((resume) => {
    const { session } = this
    const look = () => {
      if (session === undefined || !session.isOpen) resume(Effect.succeed(session?.reason ?? "it was closed"))
    }
    this.onSessionEnd = look
    look()
  })

  private receive(session: Session, source: ConsumeMessage, quorum: boolean): void {
    const { topic, group } = this.options
    const { acknowledgementTimeout } = this.parts.settings
    const message = messageOf(source, topic, () => `${topic}:${group}/${source.fields.consumerTag}/${++this.arrived}`)
    // The server looks at times once a minute; it must not be the first.
    const ends = this.now() + acknowledgementTimeout - Math.min(60_000, acknowledgementTimeout / 10)
    const tried = source.fields.redelivered ? this.tried.get(message.envelope.id) : undefined
    // With order by key most of what a process has left behind was never run: the count says nothing of what has killed it.
    const deliveries = this.ordered ? undefined : deliveriesOf(source, quorum)
    const delivery =
      tried === undefined
        ? new RabbitDelivery(session, source, message, deliveries, ends)
        : new RabbitDelivery(session, source, tried.message, deliveries, ends, tried.dueAt)
    session.unsettled.set(source.fields.deliveryTag, delivery)
    // It comes before the answer to the request to consume is heard.
    this.problem = undefined
    this.buffer.add(delivery)
    this.wake()
  }

  private wake(): void {
    this.changed = true
    if (this.available > 0 || this.over !== undefined) this.taking?.()
  }

  /** How many may be handed over now, at most. None of a channel that is being closed: the server is about to have them again. */
  private get available(): number {
    return this.session?.isOpen === true ? Math.min(this.buffer.size, this.credit - this.held) : 0
  }

  /** Only the waiting is interruptible: what was picked is returned. */
  take(max: number, maxBytes: number): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> {
    return Effect.uninterruptible(
      Effect.suspend(() => {
        if (this.over !== undefined) return Effect.fail(this.over)
        const deliveries = this.pick(max, maxBytes)
        if (deliveries.length > 0) return Effect.succeed(deliveries)
        return Effect.andThen(Effect.interruptible(this.change), this.take(max, maxBytes))
      })
    )
  }

  private readonly change: Effect.Effect<void> = Effect.callback((resume) => {
    this.taking = () => resume(Effect.void)
    if (this.changed) this.wake()
    if (!this.ordered || this.session?.isOpen !== true) return
    // What has become due since it was looked must not be missed.
    const wait = this.buffer.nextDue(this.pickedAt) - this.now()
    if (this.held >= this.credit || wait === Number.POSITIVE_INFINITY) return
    const timer = setTimeout(() => this.wake(), Math.min(Math.max(1, Math.ceil(wait)), 2 ** 30))
    return Effect.sync(() => clearTimeout(timer))
  })

  private pick(max: number, maxBytes: number): ReadonlyArray<Delivery> {
    this.changed = false
    this.pickedAt = this.now()
    const most = Math.min(max, this.available)
    if (most <= 0) return []
    const deliveries = this.buffer.take(most, maxBytes, this.pickedAt)
    for (const delivery of deliveries) delivery.state = "held"
    this.held += deliveries.length
    return deliveries
  }

  /**
   * Nothing of this is confirmed by the protocol: `Unconfirmed`. A retry is noted, and not acknowledged before its copy is
   * confirmed, however long that takes: what a server that takes no messages has to wait for is acknowledgements.
   */
  settle(settlements: ReadonlyArray<Settlement>): ReadonlyArray<Settled> {
    const acknowledged: Array<RabbitDelivery> = []
    const released: Array<RabbitDelivery> = []
    const tooOld = new Set<Session>()
    for (const settlement of settlements) {
      const { delivery } = settlement
      if (!(delivery instanceof RabbitDelivery) || delivery.state !== "held") continue
      if (settlement._tag === "Abandon") {
        delivery.state = "abandoned"
        continue
      }
      this.held--
      this.buffer.left(delivery)
      if (!delivery.session.isOpen) delivery.state = "lost"
      else if (this.ordered && settlement._tag === "Release") {
        // The consumer gives up its lease a little before the end; handed over again it would do so at once, again and again.
        if (delivery.leaseEndsAt - this.now() <= this.options.lease / 10) tooOld.add(delivery.session)
        this.giveBack(delivery, delivery.message, delivery.dueAt)
      } else if (this.ordered && settlement._tag === "Retry" && settlement.envelope.key !== undefined) {
        const message = { envelope: settlement.envelope, body: delivery.message.body }
        this.giveBack(delivery, message, this.now() + settlement.delay)
      } else if (settlement._tag === "Retry") {
        delivery.state = "retrying"
        this.retrying++
        this.retry(delivery, settlement.envelope, settlement.delay, 0)
      } else {
        delivery.state = "settled"
        const some = settlement._tag === "Acknowledge" ? acknowledged : released
        some.push(delivery)
      }
    }
    for (const [session, some] of Map.groupBy(acknowledged, sessionOf)) session.acknowledge(some)
    for (const [session, some] of Map.groupBy(released, sessionOf)) session.release(some)
    for (const session of tooOld) session.end(unacknowledged)
    this.wake()
    return settlements.map(({ delivery }) =>
      delivery instanceof RabbitDelivery && delivery.state !== "lost" ? "Unconfirmed" : "Lost"
    )
  }

  /** The server is not told: it stays in its place before others of its key. */
  private giveBack(delivery: RabbitDelivery, message: RawMessage, dueAt: number): void {
    delivery.state = "settled"
    const again = delivery.again(message, dueAt)
    delivery.session.unsettled.set(again.tag, again)
    this.buffer.giveBack(again)
  }

  /**
   * The decision stands: it is sent until the server has it, or has the original again. Where its headers leave no room for what
   * it has to carry, less of it is sent: without its attempts, and after that as a dead letter, since as it is it would come
   * again for ever.
   */
  private retry(delivery: RabbitDelivery, envelope: Envelope, delay: number, failures: number, less = 0): void {
    if (delivery.state !== "retrying") return this.retryEnded()
    const done = (answer: Published) => {
      if (answer._tag !== "Failed" || delivery.state !== "retrying") {
        if (delivery.state === "retrying") delivery.session.acknowledge([delivery])
        return this.retryEnded()
      }
      const { error } = answer
      if (less < 3 && isTooLarge(error)) {
        if (less === 1) this.parts.log(`${this.name} cannot try a message again, which becomes a dead letter`, error)
        return this.retry(delivery, envelope, delay, failures, less + 1)
      }
      if (failures === 0) this.parts.log(`${this.name} cannot send a retry, and goes on trying`, error)
      const pause = Math.min(10_000, 50 * 2 ** Math.min(failures, 10))
      setTimeout(() => this.retry(delivery, envelope, delay, failures + 1), pause)
    }
    if (less === 0) this.parts.retry(delivery, envelope, delay, done)
    else if (less === 1) this.parts.retry(delivery, withoutAttempts(envelope), delay, done)
    else {
      const letter = this.letter(delivery.message.envelope, envelope)
      this.parts.setAside(delivery, less === 2 ? terse(letter) : bare(letter), done)
    }
  }

  /** What becomes of a message whose next attempt cannot be sent. */
  private letter(envelope: Envelope, next: Envelope): Envelope {
    const failure = next.history?.attempts.at(-1)?.message ?? "it was given back"
    const cause = `its headers leave no room to try it again: ${failure}`
    return { ...envelope, death: { reason: "exhausted", cause, at: this.parts.clock.currentTimeMillisUnsafe() } }
  }

  private retryEnded(): void {
    this.retrying--
    this.onRetried()
  }

  setCredit(credit: number): void {
    this.credit = credit
    const { session } = this
    this.wake()
    // What is unacknowledged must come before what another process would get.
    if (this.ordered && credit === 0) return
    // Without an answer: what the server still hands out is not handed over.
    session?.setCredit(this.wanted).then(
      () => {
        if (this.credit === 0) this.giveBackBuffer()
      },
      (error) => session.end(textOf(error))
    )
  }

  /** Others can have what is not wanted here. */
  private giveBackBuffer(): void {
    this.session?.release(this.buffer.clear())
  }

  /** Its deliveries are back at the server. */
  private ended(session: Session): void {
    const lost: Array<RabbitDelivery> = []
    const tried = new Map<string, RabbitDelivery>()
    for (const delivery of session.unsettled.values()) {
      if (isHandedOver(delivery)) lost.push(delivery)
      if (delivery.dueAt > 0) tried.set(delivery.message.envelope.id, delivery)
      delivery.state = "lost"
    }
    if (session.unsettled.size > 0) this.tried = tried
    this.held -= lost.length
    for (const delivery of lost) this.buffer.left(delivery)
    session.unsettled.clear()
    this.buffer.keep((delivery) => delivery.session !== session)
    if (lost.length > 0) Queue.offerUnsafe(this.lostDeliveries, lost)
    if (this.session === session) this.onSessionEnd()
  }

  /** Gives up what the server would soon take away with everything else on its channel. */
  readonly expire: Effect.Effect<void> = Effect.sync(() => {
    const { session } = this
    if (session === undefined || !session.isOpen) return
    const now = this.now()
    const late: Array<RabbitDelivery> = []
    for (const delivery of session.unsettled.values()) {
      if (delivery.leaseEndsAt > now) break
      late.push(delivery)
    }
    if (late.length === 0) return
    // By itself it would come back behind others of its key.
    if (this.ordered) return session.end(unacknowledged)
    const lost = late.filter(isHandedOver)
    this.held -= lost.length
    session.release(late)
    for (const delivery of late) delivery.state = "lost"
    this.buffer.keep(({ state }) => state === "buffered")
    if (lost.length > 0) Queue.offerUnsafe(this.lostDeliveries, lost)
    this.wake()
  })

  /**
   * Only the process that receives has any; which one that is, the server does not tell. Those that wait for their time here are
   * unacknowledged there.
   */
  backlog(group: Backlog): Backlog {
    const receives = this.session?.hasReceived ?? false
    return { ...group, waiting: receives ? group.waiting : undefined, delayed: this.buffer.delayed(this.now()) }
  }

  /** Nothing more can be taken: its group was removed. */
  endWith(error: BrokerError): void {
    this.over ??= error
    this.wake()
  }

  /** Gives back what is unsettled, except for what is abandoned: that goes back with the connection. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    const { session } = this
    this.over ??= rejected(this.about, "NoGroup", "the subscription is closed; subscribe anew")
    this.credit = 0
    return Effect.gen({ self: this }, function* () {
      Queue.endUnsafe(this.lostDeliveries)
      if (session === undefined || !session.isOpen) return yield* this.closeOwn
      if (!this.ordered) {
        yield* Effect.timeoutOption(
          Effect.promise(() => session.setCredit(0).catch(() => undefined)),
          "2 seconds"
        )
      }
      yield* Effect.timeoutOption(this.retried, "5 seconds")
      const left = [...session.unsettled.values()].filter(({ state }) => state !== "abandoned")
      // What is abandoned goes back with its channel, so that stays as long as the connection.
      const stays = left.length < session.unsettled.size
      // With order by key all goes back in one piece, with the channel, and the next process begins after that. Until then
      // more may come.
      if (!this.ordered) session.release(left)
      for (const delivery of left) delivery.state = "lost"
      if (this.parts.settings.queueType === "quorum") yield* Effect.sleep(passedOn)
      if (!stays) {
        yield* Effect.timeoutOption(
          Effect.promise(() => session.channel.close().catch(() => undefined)),
          "2 seconds"
        )
        yield* this.closeOwn
      }
      session.reason ??= "the subscription is closed"
    })
  })

  private readonly closeOwn: Effect.Effect<void> = Effect.suspend(() => this.own?.close ?? Effect.void)

  /** Waits until all copies are confirmed. */
  private readonly retried: Effect.Effect<void> = Effect.callback((resume) => {
    this.onRetried = () => {
      if (this.retrying === 0) resume(Effect.void)
    }
    this.onRetried()
  })
}
