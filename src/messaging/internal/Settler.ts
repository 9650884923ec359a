/**
 * Tells the broker what became of deliveries: batched by what comes together, again and again until it has answered.
 */
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import type { BrokerError } from "../BrokerError.ts"
import type { DeliveryOutcome } from "../ConsumerReport.ts"
import type { Settled, Settlement, Subscription } from "../Driver.ts"
import type { Held } from "./Held.ts"
import type { Lane } from "./Lanes.ts"

/** A settlement, and the outcome that it is when the broker has taken it. */
export interface Settling {
  readonly held: Held
  readonly settlement: Settlement
  readonly outcome: DeliveryOutcome
  /** The lane that waits for the answer, where it is given back. */
  readonly lane: Lane | undefined
}

type Settle = () => Effect.Effect<ReadonlyArray<Settled>, BrokerError>
type Insist = (settle: Settle) => Effect.Effect<ReadonlyArray<Settled>>

/** Most settlements in one call. */
const mostAtOnce = 1000

export class Settler {
  private waiting: Array<Settling> = []
  /** Given to the broker, not answered. */
  private inFlight: ReadonlyArray<Settling> = []
  private readonly work = Latch.makeUnsafe(false)
  /** Open when an answer is not waited for any longer. */
  private readonly silent = Latch.makeUnsafe(false)
  /** Open while nothing waits for an answer. */
  readonly idle = Latch.makeUnsafe(true)
  private readonly answered: (settling: Settling, answer: Settled) => void
  private readonly subscription: () => Subscription
  private readonly insist: Insist
  private readonly now: () => number
  /** Since when the broker owes an answer. */
  askedAt: number | undefined = undefined

  constructor(
    subscription: () => Subscription,
    answered: (settling: Settling, answer: Settled) => void,
    insist: Insist,
    now: () => number
  ) {
    this.subscription = subscription
    this.answered = answered
    this.insist = insist
    this.now = now
  }

  add(settling: Settling): void {
    this.waiting.push(settling)
    this.idle.closeUnsafe()
    this.work.openUnsafe()
  }

  /** What has no answer yet. */
  get open(): ReadonlyArray<Settling> {
    return [...this.inFlight, ...this.waiting]
  }

  /** The broker owes an answer and is not waited for any longer: it is asked again. */
  askAgain(): void {
    this.silent.openUnsafe()
  }

  /** Settles whatever comes, for ever. */
  readonly run: Effect.Effect<never> = Effect.suspend(() =>
    Effect.forever(
      Effect.suspend(() => {
        this.silent.closeUnsafe()
        this.waiting.unshift(...this.inFlight)
        this.inFlight = []
        return Effect.raceFirst(this.settleAll, this.silent.await)
      })
    )
  )

  private readonly settleAll: Effect.Effect<never> = Effect.suspend(() =>
    Effect.forever(
      Effect.suspend(() => {
        if (this.waiting.length === 0) {
          this.work.closeUnsafe()
          this.idle.openUnsafe()
          return this.work.await
        }
        return this.settleSome
      })
    )
  )

  private readonly notAsked = Effect.sync(() => {
    this.askedAt = undefined
  })

  private readonly settleSome: Effect.Effect<void> = Effect.suspend(() => {
    const batch = this.waiting.length <= mostAtOnce ? this.waiting.splice(0) : this.waiting.splice(0, mostAtOnce)
    this.inFlight = batch
    const settle = () => {
      this.askedAt = this.now()
      return Effect.ensuring(this.subscription().settle(batch.map(({ settlement }) => settlement)), this.notAsked)
    }
    return Effect.map(this.insist(settle), (answers) => {
      this.inFlight = []
      batch.forEach((settling, i) => this.answered(settling, answers[i] ?? "Lost"))
    })
  })
}
