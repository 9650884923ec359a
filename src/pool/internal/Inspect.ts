/**
 * What the tasks of a pool are doing, in words, for the registry. Nothing of it is computed until somebody asks.
 */
import type { TaskInfo } from "../../registry/Registry.ts"
import { describe } from "./Deadlock.ts"
import type { Engine } from "./Engine.ts"
import type { Task } from "./Task.ts"
import { Flag, State } from "./Task.ts"

export const waitsFor = (task: Task): string | undefined => {
  const engine = task.engine
  switch (task.state) {
    case State.Running: {
      const wait = engine.waiting.waitOf(task)
      return wait && describe(wait)
    }
    case State.Blocked:
      return task.has(Flag.BlockedByKey)
        ? `a place among the tasks of key "${task.extra?.key}"`
        : `a place in the backlog (${engine.admission.queued} of ${engine.settings.capacity} taken)`
    case State.Queued: {
      const ahead = engine.admission.keys.ahead(task)
      if (ahead === "parked") return `key "${task.extra?.key}", which a failure parked: resumeKey lets it go on`
      if (ahead !== undefined) return `key "${task.extra?.key}", held by task "${ahead.name}"`
      if (engine.slots.paused) return "the pool, which is paused: resume lets it go on"
      if (engine.slots.bucket !== undefined && engine.slots.hasSlotFor(task)) return "the rate limit"
      return engine.slots.hasSlotFor(task) ? "its turn" : `a slot (${engine.slots.running.size} running)`
    }
    default:
      return undefined
  }
}

const info = (task: Task, now: number): TaskInfo => ({
  id: task.id,
  name: task.name,
  state:
    task.state === State.Blocked
      ? "blocked"
      : task.state === State.Queued
        ? "queued"
        : task.has(Flag.Overrunning)
          ? "overrunning"
          : "running",
  key: task.extra?.key,
  age: task.extra?.submittedAt === undefined ? undefined : now - task.extra.submittedAt,
  waitsFor: waitsFor(task),
  site: task.extra?.site
})

/** What a person should know of the pool before looking at its tasks. */
export const notes = (engine: Engine): ReadonlyArray<string> => {
  const { admission, settings, shutdown, slots } = engine
  const halted = [...admission.keys.halted()]
  return [
    `${slots.used} of ${slots.concurrency} slots`,
    `backlog ${admission.queued} of ${settings.capacity}`,
    ...(slots.paused ? ["paused"] : []),
    ...(shutdown.isOpen ? [] : ["closing"]),
    ...(halted.length === 0 ? [] : [`${halted.length} keys halted by failures, such as "${halted[0]?.[0]}"`])
  ]
}

export const taskInfos = (engine: Engine): ReadonlyArray<TaskInfo> => {
  const now = engine.timers.now()
  return [...engine.slots.running, ...engine.admission.queuedTasks(), ...engine.admission.blockedTasks()].map((task) =>
    info(task, now)
  )
}
