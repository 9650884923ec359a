/**
 * What the server has handed out to a subscription, and that has not handed it over yet.
 *
 * With order by key it is also where a message waits that was given back: unacknowledged, in its old place, so that those of
 * its key stay behind it, here and, when the channel ends, at the server.
 */
import type { SubscribeOptions } from "../../../messaging/Driver.ts"
import type { RabbitDelivery } from "./Session.ts"

const keyOf = (delivery: RabbitDelivery): string | undefined => delivery.message.envelope.key

export class Buffer {
  /** By age: of those of one channel, by tag. */
  private entries: Array<RabbitDelivery> = []
  /** With order by key: how many of a key are handed over. */
  private readonly held = new Map<string, number>()
  private readonly ordered: boolean
  private readonly perKey: number

  constructor({ order, perKey }: SubscribeOptions) {
    this.ordered = order === "key"
    this.perKey = perKey ?? Number.POSITIVE_INFINITY
  }

  get size(): number {
    return this.entries.length
  }

  /** The server has handed it out. */
  add(delivery: RabbitDelivery): void {
    this.entries.push(delivery)
  }

  /** It was handed over, and comes back to its place. */
  giveBack(delivery: RabbitDelivery): void {
    const at = this.entries.findIndex(({ tag }) => tag > delivery.tag)
    if (at < 0) this.entries.push(delivery)
    else this.entries.splice(at, 0, delivery)
  }

  /** Hands over up to `max`, and up to `maxBytes`, but one where there is one. */
  take(max: number, maxBytes: number, now: number): ReadonlyArray<RabbitDelivery> {
    const taken: Array<RabbitDelivery> = []
    const left: Array<RabbitDelivery> = []
    // Keys of which nothing more may be handed over, since one of them waits.
    const blocked = new Set<string>()
    let bytes = 0
    let seen = 0
    for (const delivery of this.entries) {
      if (taken.length === max) break
      if (this.ordered && !this.mayGo(delivery, now, blocked)) {
        left.push(delivery)
        seen++
        continue
      }
      bytes += delivery.message.body.byteLength
      if (taken.length > 0 && bytes > maxBytes) break
      this.count(delivery, 1)
      taken.push(delivery)
      seen++
    }
    if (left.length === 0) this.entries.splice(0, seen)
    else this.entries = left.concat(this.entries.slice(seen))
    return taken
  }

  private mayGo(delivery: RabbitDelivery, now: number, blocked: Set<string>): boolean {
    const key = keyOf(delivery)
    if (key === undefined) return delivery.dueAt <= now
    if (blocked.has(key)) return false
    if (delivery.dueAt <= now && (this.held.get(key) ?? 0) < this.perKey) return true
    blocked.add(key)
    return false
  }

  private count(delivery: RabbitDelivery, change: 1 | -1): void {
    const key = this.ordered ? keyOf(delivery) : undefined
    if (key === undefined) return
    const held = (this.held.get(key) ?? 0) + change
    if (held > 0) this.held.set(key, held)
    else this.held.delete(key)
  }

  /** It was handed over, and is not any more. */
  left(delivery: RabbitDelivery): void {
    this.count(delivery, -1)
  }

  /** When the next one is due that is not; infinite where there is none. */
  nextDue(now: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const { dueAt } of this.entries) if (dueAt > now && dueAt < next) next = dueAt
    return next
  }

  /** How many may not be handed over now. */
  delayed(now: number): number {
    const blocked = new Set<string>()
    return this.entries.filter((delivery) => !this.mayGo(delivery, now, blocked)).length
  }

  /** Removes all, and answers them. */
  clear(): ReadonlyArray<RabbitDelivery> {
    return this.entries.splice(0)
  }

  /** Forgets what is not there any more. */
  keep(isThere: (delivery: RabbitDelivery) => boolean): void {
    this.entries = this.entries.filter(isThere)
  }
}
