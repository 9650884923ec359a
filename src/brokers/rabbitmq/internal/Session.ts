/**
 * One channel of a subscription: a delivery tag means something to the channel that it came by, and to no other.
 */
import type { Channel, ConsumeMessage } from "amqplib"
import type { Delivery, RawMessage } from "../../../messaging/Driver.ts"
import { textOf } from "./errors.ts"

/**
 * - `buffered`: not handed over yet · `held`: handed over · `retrying`: settled, but a copy must be confirmed before it is
 *   acknowledged · `abandoned`: its handler may still run · `settled` · `lost`: its channel has ended, or its time
 */
export type State = "buffered" | "held" | "retrying" | "abandoned" | "settled" | "lost"

/** A delivery, with what the driver must know to settle it. */
export class RabbitDelivery implements Delivery {
  state: State = "buffered"
  /** Is about to be settled, in the step that runs. */
  leaving = false
  readonly message: RawMessage
  readonly deliveries: number | undefined
  readonly leaseEndsAt: number
  readonly session: Session
  readonly source: ConsumeMessage
  /** Not to be handed over before, by the monotonic clock: it was given back to be tried again then. 0: it was not. */
  readonly dueAt: number

  constructor(
    session: Session,
    source: ConsumeMessage,
    message: RawMessage,
    deliveries: number | undefined,
    leaseEndsAt: number,
    dueAt = 0
  ) {
    this.session = session
    this.source = source
    this.message = message
    this.deliveries = deliveries
    this.leaseEndsAt = leaseEndsAt
    this.dueAt = dueAt
  }

  get tag(): number {
    return this.source.fields.deliveryTag
  }

  /** To be handed over once more, without the server's knowing. */
  again(message: RawMessage, dueAt: number): RabbitDelivery {
    // Whoever gives it back is alive: the count begins anew.
    const deliveries = this.deliveries === undefined ? undefined : 1
    return new RabbitDelivery(this.session, this.source, message, deliveries, this.leaseEndsAt, dueAt)
  }
}

export class Session {
  readonly channel: Channel
  /** What the server has handed out to this channel, by tag and so by age. */
  readonly unsettled = new Map<number, RabbitDelivery>()
  /** Why it has ended, as a sentence; none while it is open. */
  reason: string | undefined = undefined
  /** The server has handed out something to it. */
  hasReceived = false
  private readonly queue: string
  private readonly onMessage: (session: Session, message: ConsumeMessage) => void
  /** Who consumes, and for how many; none while nobody does. */
  private consumer: { readonly tag: string; readonly credit: number } | undefined = undefined
  private steps: Promise<void> = Promise.resolve()

  constructor(
    channel: Channel,
    queue: string,
    handlers: {
      readonly onMessage: (session: Session, message: ConsumeMessage) => void
      readonly onEnd: (session: Session) => void
    },
    whyConnectionEnded: () => string | undefined
  ) {
    this.channel = channel
    this.queue = queue
    this.onMessage = handlers.onMessage
    let error: Error | undefined
    channel.on("error", (cause) => {
      error = cause
    })
    channel.on("handler-error", () => undefined)
    channel.on("close", () => {
      // Why a connection has ended is known later in this turn of the event loop.
      queueMicrotask(() => {
        this.reason ??= (error && textOf(error)) ?? whyConnectionEnded() ?? "the channel was closed"
        handlers.onEnd(this)
      })
    })
  }

  get isOpen(): boolean {
    return this.reason === undefined
  }

  /** Consumes with this credit: the number of messages that the server hands out before it waits for settlements. */
  setCredit(credit: number): Promise<void> {
    const step = this.steps.then(() => this.consume(credit))
    // A step that failed has closed the channel, and the next ones fail by themselves.
    this.steps = step.catch(() => undefined)
    return step
  }

  /** The credit of a consumer cannot be changed, only another consumer can have another. */
  private async consume(credit: number): Promise<void> {
    const { channel, consumer } = this
    if (!this.isOpen || (consumer?.credit ?? 0) === credit) return
    if (consumer !== undefined) {
      this.consumer = undefined
      await channel.cancel(consumer.tag)
    }
    if (credit === 0) return
    await channel.prefetch(Math.min(credit, 65_535))
    const { consumerTag } = await channel.consume(this.queue, (message) => {
      if (message === null) this.end("the server cancelled the consumer, since its queue was deleted or moved")
      else {
        this.hasReceived = true
        this.onMessage(this, message)
      }
    })
    this.consumer = { tag: consumerTag, credit }
  }

  /** Ends it: what is unsettled goes back to the queue. */
  end(reason: string): void {
    this.reason ??= reason
    this.channel.close().catch(() => undefined)
  }

  /** Acknowledges these; they are settled, or lost where the channel has ended. */
  acknowledge(deliveries: ReadonlyArray<RabbitDelivery>): void {
    this.settle(deliveries, ({ source }, upTo) => this.channel.ack(source, upTo))
  }

  /** Gives these back, with the same outcomes. */
  release(deliveries: ReadonlyArray<RabbitDelivery>): void {
    this.settle(deliveries, ({ source }, upTo) => this.channel.nack(source, upTo, true))
  }

  /** Those before which nothing is unsettled go in one frame, the others by themselves. */
  private settle(
    deliveries: ReadonlyArray<RabbitDelivery>,
    send: (delivery: RabbitDelivery, upTo: boolean) => void
  ): void {
    for (const delivery of deliveries) delivery.leaving = true
    let last: RabbitDelivery | undefined
    let count = 0
    for (const [tag, delivery] of this.unsettled) {
      if (!delivery.leaving) break
      this.unsettled.delete(tag)
      last = delivery
      count++
    }
    try {
      if (last !== undefined) send(last, count > 1)
      for (const delivery of deliveries) {
        if (this.unsettled.delete(delivery.tag)) send(delivery, false)
        delivery.state = "settled"
      }
    } catch {
      // The client throws where the channel is closed: the server has taken back what it still had.
      for (const delivery of deliveries) delivery.state = "lost"
    }
  }
}
