/**
 * A consumer group: the messages that it has not settled, and the subscriptions that share them.
 *
 * Everything here is synchronous, so each call is one step that nothing interrupts. Times are milliseconds of the monotonic
 * clock, and are given: nothing here looks at a clock.
 */
import type * as Cause from "effect/Cause"
import * as Queue from "effect/Queue"
import type { Backlog, Delivery, RawMessage, Settled, Settlement, SubscribeOptions } from "../../../messaging/Driver.ts"
import type { Envelope } from "../../../messaging/Envelope.ts"

/** A message as it came in. All groups share it; what becomes of it in a group is the group's. */
export interface Arrival {
  /** Its place among all messages of the broker. */
  readonly sequence: number
  readonly message: RawMessage
  readonly priority: number
  readonly arrivedAt: number
  /** Not to be handed over before. */
  readonly dueAt: number
}

/** A message that the group has not settled. It keeps its place while it is held, given back or retried. */
interface Entry {
  readonly arrival: Arrival
  /** As it came in, or as the last retry has left it. */
  message: RawMessage
  dueAt: number
  deliveries: number
  holder: Member | undefined
  leaseEndsAt: number
}

/** A subscription. */
export interface Member {
  readonly options: SubscribeOptions
  credit: number
  closed: boolean
  readonly held: Map<Delivery, Entry>
  /** What was settled, so that settling it once more says so. What is held all the same is abandoned: its lease ends it. */
  readonly settled: WeakSet<Delivery>
  readonly lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>
}

export class Group {
  /** In the order in which they came in: entries stay in the map while they are held, so none has to find its place again. */
  private readonly entries = new Map<number, Entry>()
  private readonly members = new Set<Member>()
  private readonly waiters = new Set<() => void>()
  private prioritized = false
  /** How often something has changed that those who wait may wait for. */
  changes = 0
  removed = false

  /** Adds a message; `wake` tells of it, once for all that came together. */
  add(arrival: Arrival): void {
    const { dueAt, message, priority, sequence } = arrival
    this.entries.set(sequence, { arrival, message, dueAt, deliveries: 0, holder: undefined, leaseEndsAt: 0 })
    if (priority !== 0) this.prioritized = true
  }

  join(options: SubscribeOptions, lost: Queue.Queue<ReadonlyArray<Delivery>, Cause.Done>): Member {
    const { credit } = options
    const member: Member = { options, credit, closed: false, held: new Map(), settled: new WeakSet(), lost }
    this.members.add(member)
    return member
  }

  /** Gives back what the member holds, except for what it has abandoned. */
  leave(member: Member): void {
    member.closed = true
    for (const delivery of [...member.held.keys()]) {
      if (!member.settled.has(delivery)) this.giveBack(member, delivery)
    }
    if (member.held.size === 0) this.members.delete(member)
    Queue.endUnsafe(member.lost)
    this.wake()
  }

  /** Ends the group with what it has. */
  remove(): void {
    this.removed = true
    for (const member of this.members) this.lose(member, [...member.held.keys()])
    this.entries.clear()
    this.wake()
  }

  /** Hands messages to the member: as many as it may hold, `max`, or as fit into `maxBytes`. */
  pick(member: Member, max: number, maxBytes: number, now: number): ReadonlyArray<Delivery> {
    this.expire(now)
    const room = Math.min(max, member.credit - member.held.size)
    if (room <= 0) return []
    const deliveries: Array<Delivery> = []
    let bytes = 0
    for (const entry of this.candidates(member, room, now)) {
      bytes += entry.message.body.byteLength
      if (deliveries.length > 0 && bytes > maxBytes) break
      deliveries.push(this.hand(entry, member, now))
    }
    return deliveries
  }

  private candidates(member: Member, room: number, now: number): ReadonlyArray<Entry> {
    const ordered = member.options.order === "key"
    const blocked = ordered ? this.keysOfOthers(member) : new Set<string>()
    const perKey = member.options.perKey ?? Number.POSITIVE_INFINITY
    const held = new Map<string | undefined, number>()
    if (ordered) for (const { message } of member.held.values()) count(held, message.envelope.key)
    const found: Array<Entry> = []
    for (const entry of this.entries.values()) {
      if (entry.holder !== undefined) continue
      const key = ordered ? entry.message.envelope.key : undefined
      if (key !== undefined && (blocked.has(key) || (held.get(key) ?? 0) >= perKey)) continue
      if (entry.dueAt <= now) {
        found.push(entry)
        if (key !== undefined) count(held, key)
      } else if (key !== undefined) blocked.add(key)
      // The order of a key is that in which its messages came in, so priority cannot count there.
      if (found.length === room && (ordered || !this.prioritized)) break
    }
    if (this.prioritized && !ordered) found.sort((a, b) => b.arrival.priority - a.arrival.priority)
    return found.slice(0, room)
  }

  private keysOfOthers(member: Member): Set<string> {
    const keys = new Set<string>()
    for (const other of this.members) {
      if (other === member) continue
      for (const { message } of other.held.values()) {
        if (message.envelope.key !== undefined) keys.add(message.envelope.key)
      }
    }
    return keys
  }

  private hand(entry: Entry, member: Member, now: number): Delivery {
    entry.holder = member
    entry.deliveries++
    entry.leaseEndsAt = now + member.options.lease
    const { deliveries, leaseEndsAt, message } = entry
    const delivery: Delivery = { message, deliveries, leaseEndsAt }
    member.held.set(delivery, entry)
    return delivery
  }

  settle(member: Member, settlements: ReadonlyArray<Settlement>, now: number): ReadonlyArray<Settled> {
    this.expire(now)
    const answers = settlements.map((settlement): Settled => {
      const { delivery } = settlement
      if (member.settled.has(delivery)) return "Settled"
      const entry = member.held.get(delivery)
      if (entry === undefined) return "Lost"
      member.settled.add(delivery)
      if (settlement._tag === "Abandon") return "Settled"
      // Whoever settles is alive, so it was not this message that killed somebody.
      entry.deliveries = 0
      if (settlement._tag === "Retry") this.change(entry, settlement.envelope, now + settlement.delay)
      this.giveBack(member, delivery)
      if (settlement._tag === "Acknowledge") this.entries.delete(entry.arrival.sequence)
      return "Settled"
    })
    // What was acknowledged gives back credit, and a key to others.
    this.wake()
    return answers
  }

  private change(entry: Entry, envelope: Envelope, dueAt: number): void {
    entry.message = { envelope, body: entry.message.body }
    entry.dueAt = dueAt
  }

  renew(member: Member, deliveries: ReadonlyArray<Delivery>, now: number): ReadonlyArray<number | "Lost"> {
    this.expire(now)
    return deliveries.map((delivery) => {
      const entry = member.held.get(delivery)
      if (entry === undefined || member.settled.has(delivery)) return "Lost"
      entry.leaseEndsAt = now + member.options.lease
      return entry.leaseEndsAt
    })
  }

  backlog(now: number): Backlog {
    this.expire(now)
    let waiting = 0
    let delayed = 0
    let oldest: number | undefined
    for (const { arrival, dueAt, holder } of this.entries.values()) {
      if (holder !== undefined) continue
      waiting++
      if (dueAt > now) delayed++
      oldest ??= now - arrival.arrivedAt
    }
    return { waiting, delayed, inFlight: this.entries.size - waiting, oldest }
  }

  /** Takes away what was not renewed in time. */
  private expire(now: number): void {
    for (const member of this.members) {
      const late = [...member.held].flatMap(([delivery, entry]) => (entry.leaseEndsAt <= now ? [delivery] : []))
      this.lose(member, late)
      if (member.closed && member.held.size === 0) this.members.delete(member)
    }
  }

  private lose(member: Member, deliveries: ReadonlyArray<Delivery>): void {
    if (deliveries.length === 0) return
    for (const delivery of deliveries) this.giveBack(member, delivery)
    Queue.offerUnsafe(member.lost, deliveries)
    this.wake()
  }

  private giveBack(member: Member, delivery: Delivery): void {
    const entry = member.held.get(delivery)
    if (entry !== undefined) entry.holder = undefined
    member.held.delete(delivery)
  }

  /** When there may be something to hand over although nobody does anything: a delay has passed, or a lease. */
  nextChange(now: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const { dueAt, holder, leaseEndsAt } of this.entries.values()) {
      const at = holder === undefined ? dueAt : leaseEndsAt
      if (at > now && at < next) next = at
    }
    return next
  }

  /** Calls `resume` once there were more changes than these; the returned function takes that back. */
  onChange(changes: number, resume: () => void): () => void {
    if (changes !== this.changes) resume()
    else this.waiters.add(resume)
    return () => this.waiters.delete(resume)
  }

  /** Tells all who wait that something has changed. */
  wake(): void {
    this.changes++
    const waiters = [...this.waiters]
    this.waiters.clear()
    for (const resume of waiters) resume()
  }
}

const count = (counts: Map<string | undefined, number>, key: string | undefined): void => {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}
