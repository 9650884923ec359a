/**
 * Who waits for whom, and whether they wait in a circle.
 *
 * A task's own fiber notes what it waits for (another task, a place in a backlog, an idle pool). When it does, this module
 * looks whether the circle is closed: a deadlock is certain only where everything that could let the wait end waits itself,
 * in the end for this wait. A task that may time out, a queued task that may expire, a paused pool or a free slot can still
 * change something, so they are never part of a deadlock; nor is a wait in a fiber that the task forked. That somebody outside may
 * cancel a task counts for nothing: who holds the handle need not.
 */
import type { Engine } from "./Engine.ts"
import type { Task } from "./Task.ts"
import { Flag, State } from "./Task.ts"

/** What the fiber of a task waits for; of several tasks for the first that ends, of none for nothing. */
export type Wait =
  | { readonly _tag: "Task"; readonly task: Task }
  | { readonly _tag: "Tasks"; readonly tasks: () => ReadonlyArray<Task> }
  | { readonly _tag: "Admission"; readonly task: Task }
  | { readonly _tag: "Idle"; readonly engine: Engine; readonly operation: "awaitIdle" | "drain" | "shutdown" }

export const describe = (wait: Wait): string => {
  switch (wait._tag) {
    case "Task":
      return `task "${wait.task.name}" of pool "${wait.task.engine.name}"`
    case "Tasks": {
      const tasks = wait.tasks()
      const [first] = tasks
      return `the first of ${tasks.length} tasks of pool "${first?.engine.name}", such as "${first?.name}"`
    }
    case "Admission":
      return `a place for task "${wait.task.name}" in the backlog of pool "${wait.task.engine.name}"`
    case "Idle":
      return `${wait.operation} of pool "${wait.engine.name}"`
  }
}

/** A node of the wait-for graph that cannot go on unless `all` (or one, when false) of what it needs can. */
interface Stuck {
  /** True: it goes on as soon as one of its needs does. False: it needs every one of them. */
  readonly any: boolean
  readonly needs: ReadonlyArray<Task>
}

/** Where the pool lets a stuck task go on instead of dying, it need not be certain that nothing else ever would. */
const mustBeCertain = (task: Task): boolean => task.engine.settings.onDeadlock === "die"

/** What the task needs before it can end; `undefined` when it may go on by itself. */
const needsOfTask = (task: Task): Stuck | undefined => {
  switch (task.state) {
    case State.New:
      return undefined
    case State.Settled:
      // What runs of it still is its `onFailure`, outside of a slot.
      return needsOfWait(task, task.engine.waiting.waitOf(task))
    case State.Running:
      // Its timeout may still end it, unless that has passed; what it waits for in a finalizer, nothing interrupts.
      if (mustBeCertain(task) && task.extra?.timer !== undefined && !task.has(Flag.Overrunning)) return undefined
      return needsOfWait(task, task.engine.waiting.waitOf(task))
    case State.Queued:
      if (mustBeCertain(task) && task.extra?.expiresIn !== undefined) return undefined
      return needsOfSlot(task)
    case State.Blocked:
      return needsOfPlace(task)
  }
}

const needsOfSlot = (task: Task): Stuck | undefined => {
  const engine = task.engine
  const ahead = engine.admission.keys.ahead(task)
  if (ahead === "parked") return undefined
  if (ahead !== undefined) return { any: true, needs: [ahead] }
  // Some holder of a slot does not wait, or there is a slot to be had: the usual case, without a look at the tasks.
  const { slots, waiting } = engine
  // What is queued when the pool stops is about to be dropped.
  if (slots.isStopped) return undefined
  if (waiting.size < slots.running.size || slots.paused || slots.hasSlotFor(task)) return undefined
  // One that is too heavy for what is free stands before it, and may expire.
  const first = engine.admission.backlog.first()
  if (mustBeCertain(task) && first !== task && first?.extra?.timer !== undefined && slots.used < slots.limit) {
    return undefined
  }
  return { any: true, needs: [...slots.running] }
}

/** It is accepted when a slot takes it past an empty backlog, or when a queued task leaves its place. */
const needsOfPlace = (task: Task): Stuck | undefined => {
  const { admission } = task.engine
  const { backlog, keys } = admission
  // A place is free, and it is about to be served.
  if (admission.hasPlace(task)) return undefined
  if (mustBeCertain(task) && admission.mayExpireBefore(task)) return undefined
  const key = task.extra?.key
  const active = key === undefined ? undefined : keys.activeOf(key)
  if (key !== undefined && task.has(Flag.BlockedByKey)) {
    if (active !== undefined) return { any: true, needs: [active] }
    // The free places of its key are for those who wait for a place in the whole backlog; without such, the key is parked.
    const before = [...admission.blocked].filter((other) => other.extra?.key === key)
    return before.length === 0 ? undefined : { any: true, needs: before }
  }
  // Whatever frees a slot lets the first in line go, so it stands for all that are queued.
  const first = backlog.first()
  if (first !== undefined) {
    // Unless it is too heavy for what is free: somebody may let a parked one pass it.
    const { limit, used } = task.engine.slots
    if (used < limit && [...keys.heads()].some((head) => keys.ahead(head) === "parked")) return undefined
    return { any: true, needs: [first] }
  }
  const stuck = active === undefined ? needsOfSlot(task) : { any: true, needs: [active] }
  return stuck === undefined ? undefined : { any: true, needs: [...stuck.needs, ...keys.heads()] }
}

const needsOfWait = (waiter: Task, wait: Wait | undefined): Stuck | undefined => {
  switch (wait?._tag) {
    case undefined:
      return undefined
    case "Task":
      return { any: true, needs: [wait.task] }
    case "Tasks": {
      const needs = wait.tasks()
      return needs.length === 0 ? undefined : { any: true, needs }
    }
    case "Admission":
      return wait.task.state === State.Blocked ? { any: true, needs: [wait.task] } : undefined
    case "Idle":
      // A shutdown ends by its deadline whatever the others do; only a task that shuts down its own pool waits for itself.
      if (wait.operation === "shutdown" || wait.engine.shutdown.hasDeadline)
        return waiter.engine === wait.engine ? { any: false, needs: [waiter] } : undefined
      return { any: false, needs: [...wait.engine.slots.running, ...wait.engine.ending.handlers.values()] }
  }
}

export interface Deadlock {
  /** The first of those asked about that is part of it. */
  readonly waiter: Task
  /** Each step of the circle as a sentence. */
  readonly edges: ReadonlyArray<string>
  /** The tasks of the circle that a slot would free. */
  readonly starved: ReadonlyArray<Task>
}

/** A circle that the wait of one of these tasks is part of; `undefined` when there is none. */
export const findDeadlock = (waiters: ReadonlyArray<Task>): Deadlock | undefined => {
  const graph = new Map<Task, Stuck>()
  const reached = [...waiters]
  for (let task = reached.pop(); task !== undefined; task = reached.pop()) {
    if (graph.has(task)) continue
    const stuck = needsOfTask(task)
    if (stuck === undefined) continue
    graph.set(task, stuck)
    for (const need of stuck.needs) reached.push(need)
  }
  // Take out what can go on until nothing more can: what remains can never. The needs of a task mostly stand behind it.
  const nodes = [...graph].reverse()
  for (let changed = true; changed; ) {
    changed = false
    for (const [task, { any, needs }] of nodes) {
      if (!graph.has(task)) continue
      if (any ? needs.some((need) => !graph.has(need)) : needs.every((need) => !graph.has(need))) {
        graph.delete(task)
        changed = true
      }
    }
  }
  const waiter = waiters.find((task) => graph.has(task))
  if (waiter === undefined) return undefined
  const starved = [...graph.keys()].filter((task) => task.state === State.Queued || task.state === State.Blocked)
  return { waiter, edges: edges(waiter, graph), starved }
}

/** More than this many edges say no more than these do. */
const mostEdges = 20

const edges = (waiter: Task, graph: Map<Task, Stuck>): ReadonlyArray<string> => {
  const sentences: Array<string> = []
  const seen = new Set<Task>()
  const next: Array<Task> = [waiter]
  for (let task = next.shift(); task !== undefined && sentences.length < mostEdges; task = next.shift()) {
    if (seen.has(task)) continue
    seen.add(task)
    const stuck = graph.get(task)
    if (stuck === undefined) continue
    const subject = `${task.state === State.Settled ? "onFailure of " : ""}task "${task.name}" of pool "${task.engine.name}"`
    const ahead = task.engine.admission.keys.ahead(task)
    const wait = task.engine.waiting.waitOf(task)
    if (wait !== undefined) sentences.push(`${subject} waits for ${describe(wait)}`)
    else if (ahead !== undefined && ahead !== "parked")
      sentences.push(`${subject} waits for its key "${task.extra?.key}", held by task "${ahead.name}"`)
    else {
      const holders = [...task.engine.slots.running].map((holder) => `"${holder.name}"`)
      const held = `${holders.slice(0, 5).join(", ")}${holders.length > 5 ? `, … (${holders.length})` : ""}`
      const what = task.state === State.Blocked ? "a place in the full backlog" : "a slot"
      sentences.push(`${subject} waits for ${what} of its pool; every slot is held by a task that waits: ${held}`)
    }
    next.push(...stuck.needs.filter((need) => graph.has(need)))
  }
  return sentences
}
