/**
 * Admission: what becomes of a new task (a slot, a place in the backlog, a policy), what leaves the backlog without having
 * run, and who waits for a place.
 */
import * as Exit from "effect/Exit"
import type { Outcome } from "../Accounting.ts"
import type { PoolClosed, PoolFull } from "../PoolError.ts"
import type { Engine } from "./Engine.ts"
import { closed, dropped, expired, full, keyStopped } from "./errors.ts"
import { Keys } from "./Keys.ts"
import { Levels } from "./Levels.ts"
import { isTooDeep } from "./nesting.ts"
import type { Extra, Task } from "./Task.ts"
import { Flag, priorityOf, State } from "./Task.ts"

type Admitted = (refusal: PoolClosed | undefined) => void

export class Admission {
  /** Accepted tasks whose turn it is as soon as there is a slot. */
  readonly backlog = new Levels()
  /** Accepted tasks that wait for their key, and producers that wait for a place of their key. */
  readonly keys = new Keys()
  /** Tasks whose producers wait for a place. */
  readonly blocked = new Levels()
  /** How those producers hear that their task was accepted, or why not. */
  private readonly producers = new Map<Task, Admitted>()
  /** How many of the queued tasks may expire. */
  private expiring = 0
  private readonly engine: Engine

  constructor(engine: Engine) {
    this.engine = engine
  }

  get queued(): number {
    return this.backlog.size + this.keys.waiting
  }

  *queuedTasks(): Generator<Task> {
    yield* this.backlog
    yield* this.keys.tasks()
  }

  *blockedTasks(): Generator<Task> {
    yield* this.blocked
    yield* this.keys.blockedTasks()
  }

  /** Accepts the task if the pool can: starts it, queues it or drops it by policy. Otherwise says why not. */
  offer(task: Task): undefined | "blocked" | PoolFull | PoolClosed {
    if (!this.engine.shutdown.isOpen) {
      this.engine.books.refused++
      return closed(task, "refused")
    }
    const key = task.extra?.key
    if (key !== undefined && this.keys.isStopped(key)) {
      this.engine.books.accepted++
      this.engine.ending.record(task, "dropped", Exit.fail(keyStopped(task, key)))
      return undefined
    }
    const direct = this.engine.slots.fits(task) && !this.othersWaitForSlot(task)
    if (direct && (key === undefined || this.keys.isIdle(key))) {
      if (isTooDeep()) {
        this.engine.books.accepted++
        this.enqueue(task)
        this.engine.slots.schedulePump()
        return undefined
      }
      if (this.engine.slots.takeToken()) {
        this.engine.books.accepted++
        if (key !== undefined) this.keys.enqueue(key, task)
        this.engine.slots.start(task)
        return undefined
      }
    }
    if (this.hasPlace(task) && !this.othersWaitForPlace(key)) {
      this.engine.books.accepted++
      this.enqueue(task)
      return undefined
    }
    return this.overflow(task)
  }

  /** Whether another has a claim to the next slot. One of lower priority, too heavy for what is free, has not. */
  othersWaitForSlot(task: Task): boolean {
    const first = this.nextInLine()
    return first !== undefined && priorityOf(first) >= priorityOf(task)
  }

  /** The task that has the next slot: nothing behind it starts before it does. */
  nextInLine(): Task | undefined {
    return this.backlog.first() ?? this.firstForSlot()
  }

  /** The blocked one that a slot would start; one that waits for its key has no claim to it. */
  firstForSlot(): Task | undefined {
    if (this.blocked.size === 0) return undefined
    for (const task of this.blocked) {
      const key = task.extra?.key
      if (key === undefined || this.keys.isIdle(key)) return task
    }
    return undefined
  }

  /** Whether a blocked producer has a claim to the next place. */
  othersWaitForPlace(key: string | undefined): boolean {
    return this.blocked.size > 0 || (key !== undefined && this.keys.firstBlocked(key) !== undefined)
  }

  overflow(task: Task): undefined | "blocked" | PoolFull {
    const policy = this.engine.settings.onFull
    switch (policy) {
      case "suspend":
        return "blocked"
      case "reject":
        this.engine.books.refused++
        return full(task, this.isKeyFull(task) ? task.extra?.key : undefined)
      case "dropNewest":
        this.engine.books.accepted++
        this.engine.ending.record(task, "dropped", Exit.fail(dropped(task, policy)))
        return undefined
      case "dropOldest": {
        this.engine.books.accepted++
        const victim = this.victimFor(task)
        if (victim !== task) {
          this.unqueue(victim)
          this.enqueue(task)
        }
        this.engine.ending.record(victim, "dropped", Exit.fail(dropped(victim, policy)))
        return undefined
      }
    }
  }

  /**
   * The oldest task of the lowest priority; the new one itself where nothing queued is of as low a priority. With keys in
   * use it takes a look at every queued task, since keys take turns and the first in line need not be the oldest.
   */
  victimFor(task: Task): Task {
    const key = task.extra?.key
    const within = key !== undefined && this.isKeyFull(task) ? key : undefined
    let victim: Task | undefined
    if (within === undefined && this.keys.isEmpty) victim = this.backlog.lowest()
    else {
      for (const other of this.queuedTasks()) {
        if (within !== undefined && other.extra?.key !== within) continue
        if (victim === undefined || isLower(other, victim)) victim = other
      }
    }
    return victim === undefined || priorityOf(victim) > priorityOf(task) ? task : victim
  }

  /** How many tasks like this one are accepted for certain when all come at once. */
  placesFor(task: Task): number {
    const { settings, slots } = this.engine
    const key = task.extra?.key
    const places = settings.capacity - this.queued
    if (key !== undefined) return Math.min(places, settings.capacityPerKey - this.keys.queued(key))
    // A slot that a key, a weight or the rate may leave empty is not counted.
    return (task.extra?.weight ?? 1) > 1 || slots.bucket !== undefined
      ? places
      : places + Math.max(0, slots.limit - slots.used)
  }

  /** The key of the task, where its share has fewer places than the whole backlog. */
  tighterKeyOf(task: Task): string | undefined {
    const key = task.extra?.key
    const { capacity, capacityPerKey } = this.engine.settings
    return key !== undefined && capacityPerKey - this.keys.queued(key) < capacity - this.queued ? key : undefined
  }

  isKeyFull(task: Task): boolean {
    const key = task.extra?.key
    const { capacityPerKey } = this.engine.settings
    return key !== undefined && capacityPerKey < Number.POSITIVE_INFINITY && this.keys.queued(key) >= capacityPerKey
  }

  hasPlace(task: Task): boolean {
    return this.queued < this.engine.settings.capacity && !this.isKeyFull(task)
  }

  enqueue(task: Task): void {
    task.state = State.Queued
    const extra = task.extra
    if (extra === undefined) {
      this.backlog.push(task)
      return
    }
    if (extra.key === undefined || this.keys.enqueue(extra.key, task)) this.backlog.push(task)
    if (extra.expiresIn !== undefined) this.expireAfter(task, extra, extra.expiresIn)
  }

  expireAfter(task: Task, extra: Extra, expiresIn: number): void {
    this.expiring++
    extra.timer = this.engine.timers.after(expiresIn, () => {
      this.unqueue(task)
      this.engine.ending.record(task, "expired", Exit.fail(expired(task, expiresIn)))
      this.placeFreed(extra.key)
      this.engine.slots.pump()
    })
  }

  /** The task leaves the backlog, and expires no more. */
  endExpiry(task: Task): void {
    if (task.extra?.timer !== undefined) this.expiring--
    this.engine.clearTimer(task)
  }

  /** Whether some of the tasks for whose places this one waits may expire. */
  mayExpireBefore(task: Task): boolean {
    if (this.expiring === 0 || !task.has(Flag.BlockedByKey)) return this.expiring > 0
    for (const queued of this.queuedTasks()) {
      if (queued.extra?.key === task.extra?.key && queued.extra?.timer !== undefined) return true
    }
    return false
  }

  /** Takes a queued task out without running it. Its outcome and its place are the caller's next step. */
  unqueue(task: Task): void {
    const key = task.extra?.key
    this.endExpiry(task)
    if (key === undefined) this.backlog.remove(task)
    else if (this.keys.holds(key, task)) this.keys.remove(key, task)
    else {
      this.backlog.remove(task)
      this.handOver(key, task)
    }
  }

  /** The producer waits for a place, and `admitted` is called once: when it has one, or cannot have one any more. */
  waitForPlace(task: Task, admitted: Admitted): void {
    this.producers.set(task, admitted)
  }

  /** The producer has given up. */
  giveUp(task: Task): void {
    this.producers.delete(task)
    this.leaveBlocked(task)
    this.placeFreed(task.extra?.key)
    if (this.blocked.size > 0) this.engine.slots.pump()
  }

  enterBlocked(task: Task): void {
    task.state = State.Blocked
    const key = task.extra?.key
    if (key !== undefined && (this.isKeyFull(task) || this.keys.firstBlocked(key) !== undefined)) {
      task.mark(Flag.BlockedByKey)
      this.keys.block(key, task)
    } else this.blocked.push(task)
  }

  leaveBlocked(task: Task): void {
    task.state = State.New
    const key = task.extra?.key
    if (key !== undefined && task.has(Flag.BlockedByKey)) {
      task.unmark(Flag.BlockedByKey)
      this.keys.unblock(key, task)
    } else this.blocked.remove(task)
  }

  /** Tells the producer of a blocked task that it was accepted, or why not. */
  answer(task: Task, refusal: PoolClosed | undefined): void {
    const admitted = this.producers.get(task)
    this.producers.delete(task)
    admitted?.(refusal)
  }

  /** A place is free: blocked producers have a claim to it, by priority and then in order. */
  placeFreed(key: string | undefined): void {
    this.keyPlaceFreed(key)
    while (this.letIn());
  }

  /** A task of the key has left the backlog: who waits for a place of this key waits for one in the whole backlog now. */
  keyPlaceFreed(key: string | undefined): void {
    if (key === undefined || this.keys.blocked === 0) return
    for (let places = this.engine.settings.capacityPerKey - this.keys.queued(key); places > 0; places--) {
      const first = this.keys.firstBlocked(key)
      if (first === undefined) break
      this.leaveBlocked(first)
      first.state = State.Blocked
      this.blocked.push(first)
    }
  }

  /** Whether a blocked producer has a task of higher priority than this one. */
  isMoreUrgentBlocked(task: Task): boolean {
    const first = this.blocked.size === 0 ? undefined : this.blocked.first()
    return first !== undefined && priorityOf(first) > priorityOf(task)
  }

  /** Accepts the task of one blocked producer, which goes on in the same step. Returns whether there was one, and a place. */
  letIn(): boolean {
    while (this.blocked.size > 0 && this.queued < this.engine.settings.capacity) {
      const task = this.blocked.first()
      if (task === undefined) return false
      this.leaveBlocked(task)
      if (this.isKeyFull(task)) {
        this.enterBlocked(task)
        continue
      }
      this.engine.books.accepted++
      this.enqueue(task)
      this.answer(task, undefined)
      return true
    }
    return false
  }

  /** A failure parks or stops its key before anybody hears of it, so that who hears of it may resume the key. */
  haltKey(key: string, outcome: Outcome): void {
    const failed = outcome === "failed" || outcome === "defected" || outcome === "timedOut"
    if (failed && this.engine.settings.onKeyFailure === "park") this.keys.halt(key, "parked")
    if (failed && this.engine.settings.onKeyFailure === "stop") this.keys.halt(key, "stopped")
  }

  /** A task of this key has ended: the next has its turn, unless the key was stopped. */
  keyEnded(key: string, task: Task): void {
    if (this.keys.isStopped(key)) {
      for (const blocked of [...this.blockedTasks()]) {
        // Whoever was told before may have resumed the key.
        if (!this.keys.isStopped(key)) break
        if (blocked.extra?.key !== key || blocked.state !== State.Blocked) continue
        this.leaveBlocked(blocked)
        this.engine.books.accepted++
        this.engine.ending.record(blocked, "dropped", Exit.fail(keyStopped(blocked, key)))
        this.answer(blocked, undefined)
      }
      for (;;) {
        const next = this.keys.firstWaiting(key)
        if (next === undefined || !this.keys.isStopped(key)) break
        this.unqueue(next)
        this.engine.ending.record(next, "dropped", Exit.fail(keyStopped(next, key)))
        this.placeFreed(key)
      }
    }
    this.handOver(key, task)
  }

  resumeKey(name: string): void {
    const next = this.keys.resume(name)
    if (next !== undefined) this.backlog.push(next)
    this.engine.slots.pump()
  }

  handOver(key: string, task: Task): void {
    const next = this.keys.release(key, task)
    if (next !== undefined) this.backlog.push(next)
  }

  /** Turns away all producers that wait, and counts each before it is told. */
  refuseBlocked(count: () => void): void {
    for (const task of [...this.blockedTasks()]) {
      // Whoever was refused before may have interrupted this one.
      if (task.state !== State.Blocked) continue
      this.leaveBlocked(task)
      this.engine.books.refused++
      count()
      this.answer(task, closed(task, "refused"))
    }
  }

  /** Whether all that is queued waits for parked keys, so that nothing would ever start it. */
  get onlyParked(): boolean {
    const { backlog, engine, keys } = this
    return backlog.size === 0 && keys.waiting > 0 && engine.slots.running.size === 0 && !keys.isAnyActive
  }

  /** Drops everything that is queued, and counts each before anybody is told. */
  dropQueued(count: () => void): void {
    while (this.queued > 0) {
      for (const task of [...this.queuedTasks()]) {
        // Whoever was told before may have cancelled this one.
        if (task.state !== State.Queued) continue
        this.unqueue(task)
        count()
        this.engine.ending.record(task, "dropped", Exit.fail(closed(task, "dropped")))
      }
    }
  }
}

const isLower = (a: Task, b: Task): boolean =>
  priorityOf(a) < priorityOf(b) || (priorityOf(a) === priorityOf(b) && a.sequence < b.sequence)
