/**
 * Order within a key: tasks with one key run one at a time, in the order in which they were accepted.
 *
 * Of each key at most one task is *active*: it stands in the backlog like any other, or it runs. The rest wait here, and
 * when the active one ends the next goes to the end of the backlog, so that keys take turns and a key with many tasks does
 * not starve the others. A key is forgotten when it has no tasks, unless it is parked or stopped.
 */
import type { Task } from "./Task.ts"
import { Flag, State } from "./Task.ts"
import { TaskList } from "./TaskList.ts"

/** One key: the list of its waiting tasks, and what else is known of it. There may be 100,000 of them. */
export class Key extends TaskList {
  active: Task | undefined = undefined
  /** Tasks whose producers wait until this key has a place; only where `capacityPerKey` is set. */
  blocked: TaskList | undefined = undefined
  condition: "open" | "parked" | "stopped" = "open"

  get queued(): number {
    return this.size + (this.active?.state === State.Queued ? 1 : 0)
  }
}

export class Keys {
  /** Tasks that wait for their key. */
  waiting = 0
  /** Producers that wait for a place among the tasks of their key. */
  blocked = 0
  /** How many are parked or stopped. */
  private haltedKeys = 0
  private readonly keys = new Map<string, Key>()

  /** Takes an accepted task; returns it when its turn has come, so that it belongs into the backlog. */
  enqueue(name: string, task: Task): boolean {
    const key = this.open(name)
    if (task.extra !== undefined) task.extra.lane = key
    if (key.active === undefined && key.condition === "open") {
      key.active = task
      return true
    }
    key.push(task)
    this.waiting++
    return false
  }

  /** Whether a new task of this key could run at once. */
  isIdle(name: string): boolean {
    const key = this.keys.get(name)
    return key === undefined || (key.active === undefined && key.condition === "open")
  }

  /** Whether a task of some key has its turn, or has just ended and is about to hand its turn over. */
  get isAnyActive(): boolean {
    for (const { active } of this.keys.values()) if (active !== undefined) return true
    return false
  }

  isStopped(name: string): boolean {
    return this.haltedKeys > 0 && this.keys.get(name)?.condition === "stopped"
  }

  queued(name: string): number {
    return this.keys.get(name)?.queued ?? 0
  }

  /** Whether this task waits here, not in the backlog. */
  holds(name: string, task: Task): boolean {
    return this.keys.get(name)?.active !== task
  }

  /** A waiting task leaves without having been active. */
  remove(name: string, task: Task): void {
    const key = this.open(name)
    key.remove(task)
    this.waiting--
    this.forget(name, key)
  }

  /** The active task has left, ended or not; returns the one whose turn it is now. */
  release(name: string, task: Task): Task | undefined {
    // Not by name: of many keys, each search would be one in cold memory.
    const key = task.extra?.lane
    if (key === undefined || key.active !== task) return undefined
    key.active = undefined
    return this.promote(name, key)
  }

  halt(name: string, condition: "parked" | "stopped"): void {
    const key = this.open(name)
    if (key.condition === "open") this.haltedKeys++
    key.condition = condition
  }

  /** Ends a park or a stop; returns the task whose turn it is now. */
  resume(name: string): Task | undefined {
    const key = this.keys.get(name)
    if (key === undefined || key.condition === "open") return undefined
    this.haltedKeys--
    key.condition = "open"
    return key.active === undefined ? this.promote(name, key) : undefined
  }

  /** The keys that are parked or stopped, by name. */
  *halted(): Generator<readonly [name: string, condition: "parked" | "stopped"]> {
    for (const [name, { condition }] of this.keys) if (condition !== "open") yield [name, condition]
  }

  block(name: string, task: Task): void {
    const key = this.open(name)
    key.blocked ??= new TaskList()
    // It may have waited for a place in the whole backlog before, and then stands before those that came later.
    key.blocked.insert(task)
    this.blocked++
  }

  unblock(name: string, task: Task): void {
    const key = this.open(name)
    key.blocked?.remove(task)
    this.blocked--
    this.forget(name, key)
  }

  /** The first producer that waits for a place of this key. */
  firstBlocked(name: string): Task | undefined {
    return this.blocked === 0 ? undefined : this.keys.get(name)?.blocked?.head
  }

  /** What a task that is not active waits for: the active task of its key, or the end of a park. */
  ahead(task: Task): Task | "parked" | undefined {
    const name = task.extra?.key
    const key = name === undefined ? undefined : this.keys.get(name)
    const waits = task.state === State.Queued ? key?.active !== task : task.has(Flag.BlockedByKey)
    if (key === undefined || !waits) return undefined
    return key.active ?? (key.condition === "open" ? undefined : "parked")
  }

  /** Whether another task of its key runs or stands before it, so that a slot alone would not start it. */
  isHeldByOther(task: Task): boolean {
    const name = task.extra?.key
    const active = name === undefined ? undefined : this.activeOf(name)
    return active !== undefined && active !== task
  }

  /** The task whose turn it is in this key: it runs, or stands in the backlog. */
  activeOf(name: string): Task | undefined {
    return this.keys.get(name)?.active
  }

  get isEmpty(): boolean {
    return this.keys.size === 0
  }

  *tasks(): Generator<Task> {
    for (const key of this.keys.values()) yield* key
  }

  /** The first of the waiting tasks of each key. */
  *heads(): Generator<Task> {
    for (const { head } of this.keys.values()) if (head !== undefined) yield head
  }

  firstWaiting(name: string): Task | undefined {
    return this.keys.get(name)?.head
  }

  *blockedTasks(): Generator<Task> {
    for (const key of this.keys.values()) if (key.blocked !== undefined) yield* key.blocked
  }

  private open(name: string): Key {
    let key = this.keys.get(name)
    if (key === undefined) {
      key = new Key()
      this.keys.set(name, key)
    }
    return key
  }

  private promote(name: string, key: Key): Task | undefined {
    const next = key.condition === "open" ? key.head : undefined
    if (next !== undefined) {
      key.remove(next)
      this.waiting--
      key.active = next
      return next
    }
    this.forget(name, key)
    return undefined
  }

  private forget(name: string, key: Key): void {
    if (key.active === undefined && key.size === 0 && !key.blocked?.size && key.condition === "open") {
      this.keys.delete(name)
    }
  }
}
