/**
 * Messages that a subscription sends to its group itself: retries, and what a killed server may have forgotten. The decision
 * stands, so each is sent until a server has it.
 */
import * as Effect from "effect/Effect"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Published, RawMessage } from "../../../messaging/Driver.ts"
import type { Publisher } from "./Publisher.ts"
import { encode } from "./Wire.ts"

export class Copies {
  /** Not confirmed yet. */
  open = 0
  private readonly publisher: Publisher
  private readonly topic: string
  private readonly maxFrameBytes: number
  private readonly log: (message: string, error: BrokerError) => void
  private onIdle: () => void = () => undefined
  private over = false
  /** Why copies were not confirmed, by what they are of: until they are. */
  private readonly failing = new Map<RawMessage, BrokerError>()

  constructor(
    publisher: Publisher,
    topic: string,
    maxFrameBytes: number,
    log: (message: string, error: BrokerError) => void
  ) {
    this.publisher = publisher
    this.topic = topic
    this.maxFrameBytes = maxFrameBytes
    this.log = log
  }

  /** What keeps a copy from being stored. */
  get problem(): BrokerError | undefined {
    return this.failing.values().next().value
  }

  /** Sends a copy, and calls when it is confirmed. False where it can never be stored. */
  send(message: RawMessage, delay: number, confirmed: () => void): boolean {
    const bytes = encode(message.envelope, message.body, delay > 0 ? Date.now() + delay : 0)
    if (bytes.byteLength - 4 > this.maxFrameBytes) return false
    this.open++
    this.sendUntilThere(message, bytes, delay, 0, confirmed)
    return true
  }

  private sendUntilThere(
    message: RawMessage,
    bytes: Buffer,
    delay: number,
    failures: number,
    confirmed: () => void
  ): void {
    this.publisher.submit({
      about: { operation: "retry", topic: message.envelope.topic, ids: [message.envelope.id] },
      topic: this.topic,
      bytes,
      delay,
      since: Date.now(),
      state: "waiting",
      alone: false,
      done: (answer: Published) => {
        if (answer._tag !== "Failed") return this.ended(message, confirmed)
        const what = `NSQ: a copy of message ${message.envelope.id} for topic "${this.topic}" was not confirmed`
        if (this.over) {
          this.log(`${what}, and is not sent again, since the subscription is closed`, answer.error)
          return this.ended(message, () => undefined)
        }
        if (failures === 0) this.log(`${what}; it is sent again`, answer.error)
        this.failing.set(message, answer.error)
        const pause = Math.min(10_000, 50 * 2 ** Math.min(failures, 10))
        setTimeout(() => this.sendUntilThere(message, bytes, delay, failures + 1, confirmed), pause)
      }
    })
  }

  private ended(message: RawMessage, confirmed: () => void): void {
    this.failing.delete(message)
    confirmed()
    this.open--
    if (this.open === 0) this.onIdle()
  }

  /** Waits until all are confirmed. */
  readonly idle: Effect.Effect<void> = Effect.callback((resume) => {
    this.onIdle = () => resume(Effect.void)
    if (this.open === 0) this.onIdle()
  })

  /** Nobody waits any more: what a server does not take now is not sent again. */
  close(): void {
    this.over = true
  }
}
