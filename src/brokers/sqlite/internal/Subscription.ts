/**
 * A subscription: what it holds, what it waits for, and its lease.
 *
 * ```text
 *   claimed ──▶ buffer ──take──▶ given ──▶ settled
 *                  │               │
 *                  └── lease over ─┴─────▶ lost
 * ```
 *
 * A message is in `held` from the commit that claimed it until it is settled or lost.
 */

import type { Done } from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type {
  Subscription as Contract,
  Delivery,
  RawMessage,
  Settled,
  Settlement,
  SubscribeOptions
} from "../../../messaging/Driver.ts"
import type { ClaimedRow, ClaimResult } from "./Claims.ts"
import { addOwner, claim, extendLease, release, removeOwner, settle, unblock } from "./Claims.ts"
import type { About } from "./Failure.ts"
import { unavailable } from "./Failure.ts"
import type { Claimant, Pump } from "./Pump.ts"
import { toEnvelope, toText } from "./Rows.ts"
import type { Store } from "./Store.ts"
import { ensureGroup, fill } from "./Topology.ts"

/** A delivery, and what the driver knows of it. */
class Claimed implements Delivery {
  readonly message: RawMessage
  readonly deliveries: number
  readonly leaseEndsAt: number
  readonly seq: number
  readonly owner: number
  readonly queue: number
  /** Hidden, because whoever prints a delivery does not want to see the whole driver. */
  readonly #subscription: Subscription
  /** `leaseEndsAt` as it was renewed. */
  endsAt: number
  state: "buffered" | "given" | "settled" | "lost" = "buffered"
  /** The transaction that has settled it, whether or not it was committed yet. */
  settledIn = -1

  constructor(subscription: Subscription, row: ClaimedRow, owner: number, queue: number, endsAt: number) {
    const [seq, deliveries, attempt, version, timestamp, id, key, meta, body] = row
    this.message = {
      envelope: toEnvelope(subscription.options.topic, attempt, version, timestamp, id, key, meta),
      body
    }
    this.deliveries = deliveries + 1
    this.leaseEndsAt = endsAt
    this.endsAt = endsAt
    this.seq = seq
    this.owner = owner
    this.queue = queue
    this.#subscription = subscription
  }

  isOf(subscription: Subscription): boolean {
    return this.#subscription === subscription
  }
}

interface SettleResult {
  readonly answers: ReadonlyArray<Settled>
  /** What was put back from the buffer, because something earlier of its key was. */
  readonly putBack: ReadonlyArray<Claimed>
}

/** A `take` that waits. */
interface Taking {
  readonly max: number
  readonly maxBytes: number
  readonly resume: (effect: Effect.Effect<void, BrokerError>) => void
}

export class Subscription implements Contract, Claimant {
  readonly options: SubscribeOptions
  readonly about: About
  readonly lost: Stream.Stream<ReadonlyArray<Delivery>>
  queue: number
  claimed = 0
  more = false
  due: number | undefined = undefined
  private readonly pump: Pump
  private readonly process: string
  private readonly losses: Queue.Queue<ReadonlyArray<Delivery>, Done>
  private readonly held = new Set<Claimed>()
  private buffer: Array<Claimed> = []
  /** Held no more, but still owned in the file. */
  private toRelease: Array<Claimed> = []
  private taking: Taking | undefined = undefined
  private credit: number
  private owner = 0
  private closed = false
  /** Their handlers still run: only the end of the lease gives them back. */
  private readonly abandoned = new Set<Claimed>()
  /** What the open transaction has settled, which is free for its claims. */
  private freed = 0
  private freedIn = -1
  /** What the open transaction has claimed. */
  private claim:
    | { readonly result: ClaimResult; readonly owner: number; readonly queue: number; readonly endsAt: number }
    | undefined

  constructor(
    pump: Pump,
    options: SubscribeOptions,
    queue: number,
    process: string,
    losses: Queue.Queue<ReadonlyArray<Delivery>, Done>
  ) {
    this.pump = pump
    this.options = options
    this.queue = queue
    this.process = process
    this.losses = losses
    this.lost = Stream.fromQueue(losses)
    this.credit = options.credit
    this.about = { operation: "take", topic: options.topic }
  }

  readonly take = (max: number, maxBytes: number): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> =>
    this.pump.outsideTransaction(this.about, this.taken(max, maxBytes))

  /** The last step hands over, so an interruption before it leaves everything in the buffer. */
  private taken(max: number, maxBytes: number): Effect.Effect<ReadonlyArray<Delivery>, BrokerError> {
    const now: Effect.Effect<ReadonlyArray<Delivery>, BrokerError> = Effect.suspend(() =>
      this.buffer.length > 0
        ? Effect.sync(() => this.hand(max, maxBytes))
        : Effect.flatMap(this.arrival(max, maxBytes), () => now)
    )
    return now
  }

  private arrival(max: number, maxBytes: number): Effect.Effect<void, BrokerError> {
    return Effect.callback<void, BrokerError>((resume) => {
      if (this.closed) return resume(Effect.fail(this.closedError("take")))
      const taking: Taking = { max, maxBytes, resume }
      this.taking = taking
      this.pump.enlist(this)
      return Effect.sync(() => {
        if (this.taking !== taking) return
        this.taking = undefined
        this.pump.dismiss(this)
      })
    })
  }

  private hand(max: number, maxBytes: number): ReadonlyArray<Delivery> {
    let count = 0
    let bytes = 0
    for (const { message } of this.buffer) {
      bytes += message.body.byteLength
      if (count > 0 && (count >= max || bytes > maxBytes)) break
      count++
    }
    const handed = this.buffer.splice(0, count)
    for (const delivery of handed) delivery.state = "given"
    return handed
  }

  private closedError(operation: string): BrokerError {
    return unavailable(
      { ...this.about, operation },
      `The subscription of group "${this.options.group}" is closed, perhaps with the layer of its broker.`
    )
  }

  /** Places for more messages, as the open transaction sees it. */
  private free(store: Store): number {
    const freed = this.freedIn === store.transaction ? this.freed : 0
    return this.credit - this.held.size + freed
  }

  run(store: Store): void {
    this.claim = undefined
    this.claimed = 0
    this.more = false
    this.due = undefined
    const { lease, order } = this.options
    if (this.taking === undefined) return
    const queue = this.currentQueue(store)
    // With the group all that is held was removed.
    const free = queue === this.queue ? this.free(store) : this.credit
    if (free <= 0) return
    const endsAt = store.clock.monotonic() + lease
    let { owner } = this
    // What a new group reads again is copied before anything of it is handed out.
    if (fill(store, queue)) {
      this.more = true
      this.claim = { result: { rows: [], more: true, due: undefined }, owner, queue, endsAt }
      return
    }
    if (queue !== this.queue || owner === 0 || !extendLease(store, owner, store.now + lease)) {
      owner = addOwner(store, queue, store.now + lease, this.process)
    }
    const { max, maxBytes } = this.taking
    const perKey = (order === "key" ? this.options.perKey : undefined) ?? Number.POSITIVE_INFINITY
    const held = perKey === Number.POSITIVE_INFINITY ? new Map<string, number>() : this.heldByKey(store)
    const result = claim(store, { queue, owner, count: Math.min(max, free), maxBytes, order, perKey, held })
    this.claim = { result, owner, queue, endsAt }
    this.claimed = result.rows.length
    this.more = result.more
    this.due = result.due
  }

  /** How many messages of each key it holds, those apart that this transaction has settled. */
  private heldByKey(store: Store): Map<string, number> {
    const counts = new Map<string, number>()
    for (const { message, settledIn } of this.held) {
      if (message.envelope.key === undefined || settledIn === store.transaction) continue
      const key = toText(message.envelope.key)
      counts.set(key, (counts.get(key) ?? 0) + 1)
    }
    return counts
  }

  /** The queue of the group, which is created anew where somebody has removed it meanwhile. */
  private currentQueue(store: Store): number {
    const { group, topic } = this.options
    const exists = store.database.sql("SELECT 1 FROM millrace_queue WHERE id = ? AND topic IS NOT NULL").get(this.queue)
    return exists === undefined ? ensureGroup(store, topic, group, undefined) : this.queue
  }

  committed(): void {
    const { claim } = this
    this.claim = undefined
    if (claim === undefined) return
    if (claim.owner !== this.owner) this.lose()
    this.owner = claim.owner
    this.queue = claim.queue
    for (const row of claim.result.rows) {
      const claimed = new Claimed(this, row, claim.owner, claim.queue, claim.endsAt)
      this.held.add(claimed)
      this.buffer.push(claimed)
    }
  }

  answer(): void {
    if (this.buffer.length === 0) return
    const { taking } = this
    this.taking = undefined
    this.pump.dismiss(this)
    taking?.resume(Effect.void)
  }

  fail(error: BrokerError): void {
    const { taking } = this
    this.taking = undefined
    taking?.resume(Effect.fail(error))
  }

  readonly settle = (settlements: ReadonlyArray<Settlement>): Effect.Effect<ReadonlyArray<Settled>, BrokerError> => {
    const about = { operation: "settle", topic: this.options.topic }
    if (settlements.length === 0) return Effect.succeed([])
    return this.pump.outsideTransaction(
      about,
      Effect.map(
        this.pump.request(
          about,
          { weight: settlements.length },
          (store) => this.settleIn(store, settlements),
          (result) => this.settled(settlements, result)
        ),
        ({ answers }) => answers
      )
    )
  }

  private settleIn(store: Store, settlements: ReadonlyArray<Settlement>): SettleResult {
    if (this.freedIn !== store.transaction) {
      this.freedIn = store.transaction
      this.freed = 0
    }
    const ended = new Set<string>()
    const putBack: Array<Claimed> = []
    const answers = settlements.map((settlement): Settled => {
      const delivery = this.own(settlement.delivery)
      if (delivery === undefined || delivery.state === "lost") return "Lost"
      // Asked again, before or after the commit.
      if (delivery.state === "settled" || delivery.settledIn === store.transaction) return "Settled"
      if (!settle(store, delivery, settlement)) return "Lost"
      if (settlement._tag === "Abandon") {
        this.abandoned.add(delivery)
        return "Settled"
      }
      delivery.settledIn = store.transaction
      this.freed++
      const { key } = delivery.message.envelope
      if (key === undefined) return "Settled"
      if (settlement._tag === "Acknowledge") ended.add(key)
      else if (this.options.order === "key") putBack.push(...this.putBackBehind(store, delivery, key))
      return "Settled"
    })
    if (ended.size > 0) unblock(store, this.queue, ended, this.options.perKey)
    return { answers, putBack }
  }

  /** Nothing later of its key may be handed over before a message that is given back, also not from the buffer. */
  private putBackBehind(store: Store, { seq }: Claimed, key: string): ReadonlyArray<Claimed> {
    const later = this.buffer.filter(
      (delivery) =>
        delivery.seq > seq && delivery.message.envelope.key === key && delivery.settledIn !== store.transaction
    )
    for (const delivery of later) {
      release(store, delivery.queue, delivery.owner, delivery.seq)
      delivery.settledIn = store.transaction
    }
    return later
  }

  private settled(settlements: ReadonlyArray<Settlement>, { answers, putBack }: SettleResult): void {
    for (const [index, settlement] of settlements.entries()) {
      const delivery = this.own(settlement.delivery)
      if (delivery === undefined || this.abandoned.has(delivery) || !this.held.delete(delivery)) continue
      delivery.state = answers[index] === "Settled" ? "settled" : "lost"
    }
    if (putBack.length > 0) {
      for (const delivery of putBack) {
        delivery.state = "settled"
        this.held.delete(delivery)
      }
      this.buffer = this.buffer.filter((delivery) => delivery.state === "buffered")
    }
    this.pump.want(this)
  }

  /** A delivery of this subscription; of others nothing is known. */
  private own(delivery: Delivery): Claimed | undefined {
    return delivery instanceof Claimed && delivery.isOf(this) ? delivery : undefined
  }

  readonly renew = (
    deliveries: ReadonlyArray<Delivery>
  ): Effect.Effect<ReadonlyArray<number | undefined | "Lost">, BrokerError> => {
    const about = { operation: "renew", topic: this.options.topic }
    return this.pump.outsideTransaction(
      about,
      Effect.suspend(() => {
        const { lease } = this.options
        const endsAt = this.pump.store.clock.monotonic() + lease
        const { owner } = this
        const renewed = this.pump.request(
          about,
          { weight: 1 },
          (store) => extendLease(store, owner, store.now + lease),
          (extended) => {
            if (!extended && owner === this.owner) this.lose(new Set(deliveries))
            for (const delivery of deliveries) {
              const own = this.own(delivery)
              if (own !== undefined && own.endsAt < endsAt) own.endsAt = endsAt
            }
          }
        )
        return Effect.map(renewed, () =>
          deliveries.map((delivery) => {
            const own = this.own(delivery)
            return own !== undefined && this.held.has(own) ? own.endsAt : "Lost"
          })
        )
      })
    )
  }

  /** The lease has ended: everything held is lost. Those who ask at the moment hear it as the answer. */
  private lose(asked?: ReadonlySet<Delivery>): void {
    const lost = [...this.held].filter((delivery) => delivery.state === "given" && asked?.has(delivery) !== true)
    for (const delivery of this.held) delivery.state = "lost"
    this.held.clear()
    this.buffer = []
    // Never the same owner again: the file may still have rows of it.
    this.owner = 0
    if (lost.length > 0) Queue.offerUnsafe(this.losses, lost)
    this.pump.want(this)
  }

  readonly setCredit = (credit: number): Effect.Effect<void> =>
    Effect.sync(() => {
      this.credit = credit
      this.pump.want(this)
    })

  /**
   * Gives back what was not renewed in time, although the lease of the subscription goes on: one message that nobody takes
   * care of must not be kept by the others.
   */
  expire(): Effect.Effect<void> {
    const now = this.pump.store.clock.monotonic()
    const expired: Array<Claimed> = []
    for (const delivery of this.held) if (delivery.endsAt <= now) expired.push(delivery)
    if (expired.length > 0) {
      const given = expired.filter((delivery) => delivery.state === "given")
      for (const delivery of expired) {
        delivery.state = "lost"
        this.held.delete(delivery)
      }
      this.buffer = this.buffer.filter((delivery) => delivery.state !== "lost")
      this.toRelease.push(...expired)
      if (given.length > 0) Queue.offerUnsafe(this.losses, given)
    }
    if (this.toRelease.length === 0) return Effect.void
    const releasing = this.toRelease
    const released = this.pump.request(
      { operation: "release", topic: this.options.topic },
      { weight: releasing.length },
      (store) => {
        for (const { owner, queue, seq } of releasing) release(store, queue, owner, seq)
      },
      () => {
        this.toRelease = this.toRelease.filter((delivery) => !releasing.includes(delivery))
        this.pump.want(this)
      }
    )
    // It is tried again at the next time, and ends with the subscription's lease at the latest.
    return Effect.ignore(released)
  }

  /** Gives back all that is held, and ends the lease. Where that fails, the end of the lease does it. */
  readonly close: Effect.Effect<void> = Effect.suspend(() => {
    if (this.closed) return Effect.void
    this.closed = true
    this.pump.dismiss(this)
    this.fail(this.closedError("take"))
    const about = { operation: "close", topic: this.options.topic }
    // Read inside the transaction: a claim may come before it.
    const removed = this.pump.request(about, { weight: 1 + this.held.size }, (store) => {
      if (this.abandoned.size === 0) return removeOwner(store, this.owner)
      for (const held of this.held) {
        if (!this.abandoned.has(held)) release(store, held.queue, held.owner, held.seq)
      }
    })
    return Effect.ensuring(
      Effect.ignore(removed),
      Effect.sync(() => {
        for (const delivery of this.held) delivery.state = "lost"
        this.held.clear()
        this.buffer = []
        Queue.endUnsafe(this.losses)
      })
    )
  })
}
