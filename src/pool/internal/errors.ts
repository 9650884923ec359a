/**
 * What the pool answers for a task: its typed errors, made without a stack. The stack would show the inside of the library,
 * in every log of every refused task, and it is what costs most when a full pool refuses ten thousand of them.
 */
import { KeyStopped, PoolClosed, PoolFull, TaskDropped, TaskExpired, TaskTimedOut } from "../PoolError.ts"
import { withoutStack } from "../withoutStack.ts"
import type { Task } from "./Task.ts"

const names = (task: Task) => ({ pool: task.engine.name, task: task.name })

export const closed = (task: Task, outcome: PoolClosed["outcome"]): PoolClosed =>
  withoutStack(() => new PoolClosed({ ...names(task), outcome }))

/** `key` where not the whole backlog was full but the share of the task's key; `list` where many were to go in at once. */
export const full = (task: Task, key: string | undefined, list?: PoolFull["list"]): PoolFull => {
  const { capacity, capacityPerKey } = task.engine.settings
  return withoutStack(
    () => new PoolFull({ ...names(task), capacity: key === undefined ? capacity : capacityPerKey, key, list })
  )
}

export const dropped = (task: Task, policy: TaskDropped["policy"]): TaskDropped =>
  withoutStack(() => new TaskDropped({ ...names(task), policy }))

export const expired = (task: Task, expiresIn: number): TaskExpired =>
  withoutStack(() => new TaskExpired({ ...names(task), expiresIn }))

export const timedOut = (task: Task): TaskTimedOut =>
  withoutStack(() => new TaskTimedOut({ ...names(task), timeout: task.extra?.timeout ?? 0 }))

export const keyStopped = (task: Task, key: string): KeyStopped =>
  withoutStack(() => new KeyStopped({ ...names(task), key }))
