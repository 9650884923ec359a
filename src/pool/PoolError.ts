/**
 * The errors that a pool adds to those of the work itself.
 *
 * Each is in a type only where the pool's policy or the task's options can produce it; see {@link WorkerPool}. All but
 * {@link PoolDeadlock} and {@link InvalidOption} are typed failures. Those two are bugs of the program and reach it as
 * defects.
 */
import * as Schema from "effect/Schema"

const Task = { pool: Schema.String, task: Schema.String }

/** The backlog was full and the policy is `reject`: the task was never accepted. */
export class PoolFull extends Schema.TaggedError<PoolFull>("millrace/PoolFull")("PoolFull", {
  ...Task,
  /** Tasks that the full backlog holds. */
  capacity: Schema.Number,
  /** The key whose share of the backlog was full; `undefined` when the whole backlog was. */
  key: Schema.UndefinedOr(Schema.String),
  /** How many tasks `submitAll` brought, `task` the first of them, and how many places there were. */
  list: Schema.optional(Schema.Struct({ tasks: Schema.Number, places: Schema.Number }))
}) {
  override get message(): string {
    const [what, option] =
      this.key === undefined
        ? ["its backlog", "capacity"]
        : [`the share of key "${this.key}" in its backlog`, "capacityPerKey"]
    const raise = this.capacity === 0 ? "concurrency (maxInFlight of a Background)" : option
    const advice = `ry again later, raise ${raise}, or choose another onFull.`
    if (this.list !== undefined) {
      const { places, tasks } = this.list
      const found = places === 1 ? "one place" : `${places} places`
      return `Pool "${this.pool}" refused all ${tasks} tasks of a submitAll: ${what} had ${found} for them (${option} ${this.capacity}). Submit fewer at a time, t${advice}`
    }
    const refused = `Pool "${this.pool}" refused task "${this.task}"`
    return this.capacity === 0
      ? `${refused}: it cannot start at once, and nothing may wait (capacity 0). T${advice}`
      : `${refused}: ${what} is full (${this.capacity} tasks). T${advice}`
  }
}

/** The pool closed before the task could complete; `outcome` says how far the task got. */
export class PoolClosed extends Schema.TaggedError<PoolClosed>("millrace/PoolClosed")("PoolClosed", {
  ...Task,
  outcome: Schema.Literals(["refused", "dropped", "interrupted", "abandoned"])
}) {
  override get message(): string {
    switch (this.outcome) {
      case "refused":
        return `Pool "${this.pool}" is closed: task "${this.task}" was not accepted.`
      case "dropped":
        return `Pool "${this.pool}" closed while task "${this.task}" was queued: it never ran.`
      case "interrupted":
        return `Pool "${this.pool}" closed while task "${this.task}" was running: it was interrupted at the deadline.`
      case "abandoned":
        return `Pool "${this.pool}" closed while task "${this.task}" was running: it did not stop when interrupted and was abandoned; it may still be running.`
    }
  }
}

/** The task was accepted and then discarded because the pool was full, by `dropNewest` or `dropOldest`. */
export class TaskDropped extends Schema.TaggedError<TaskDropped>("millrace/TaskDropped")("TaskDropped", {
  ...Task,
  policy: Schema.Literals(["dropNewest", "dropOldest"])
}) {
  override get message(): string {
    return `Task "${this.task}" was dropped by policy ${this.policy}: pool "${this.pool}" was full.`
  }
}

/** The task was still queued when its `expiresIn` had passed; it never ran. */
export class TaskExpired extends Schema.TaggedError<TaskExpired>("millrace/TaskExpired")("TaskExpired", {
  ...Task,
  /** Milliseconds that it was allowed to wait. */
  expiresIn: Schema.Number
}) {
  override get message(): string {
    return `Task "${this.task}" waited ${this.expiresIn} ms in the backlog of pool "${this.pool}" and expired.`
  }
}

/** The task ran longer than its `timeout` and was interrupted. */
export class TaskTimedOut extends Schema.TaggedError<TaskTimedOut>("millrace/TaskTimedOut")("TaskTimedOut", {
  ...Task,
  /** Milliseconds that it was allowed to run. */
  timeout: Schema.Number
}) {
  override get message(): string {
    return `Task "${this.task}" of pool "${this.pool}" ran longer than its timeout of ${this.timeout} ms.`
  }
}

/** An earlier task of the same key failed, and the pool stops such keys; the task never ran. */
export class KeyStopped extends Schema.TaggedError<KeyStopped>("millrace/KeyStopped")("KeyStopped", {
  ...Task,
  key: Schema.String
}) {
  override get message(): string {
    return `Task "${this.task}" was dropped: key "${this.key}" of pool "${this.pool}" was stopped by a failure. resumeKey opens it again.`
  }
}

/**
 * Tasks wait for each other in a circle and none of them can go on. A defect: the task that closed the circle dies with it,
 * and the others go on.
 */
export class PoolDeadlock extends Schema.TaggedError<PoolDeadlock>("millrace/PoolDeadlock")("PoolDeadlock", {
  ...Task,
  /** Each step of the circle as a sentence. */
  edges: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return [
      `Deadlock in pool "${this.pool}": task "${this.task}" waits for something that waits for it.`,
      ...this.edges.map((edge) => `  - ${edge}`),
      `Give the inner work a pool of its own, do not wait for it inside the task, or set onDeadlock to "inline" or "lend".`
    ].join("\n")
  }
}

/** An option has a value that is not allowed. A defect: it is a bug of the caller, found where it was written. */
export class InvalidOption extends Schema.TaggedError<InvalidOption>("millrace/InvalidOption")("InvalidOption", {
  /** The operation that was given the option, such as `WorkerPool.make`. */
  operation: Schema.String,
  /** What is wrong and what is allowed. */
  problem: Schema.String
}) {
  override get message(): string {
    return `${this.operation}: ${this.problem}`
  }
}

/** What `submit` can fail with beside `PoolClosed`, by policy. */
export interface RefusedBy {
  readonly suspend: never
  readonly reject: PoolFull
  readonly dropNewest: never
  readonly dropOldest: never
}

/** What the pool can end an accepted task with beside `PoolClosed`, by policy. */
export interface EndedBy {
  readonly suspend: never
  readonly reject: never
  readonly dropNewest: TaskDropped
  readonly dropOldest: TaskDropped
}

/** What the pool can end a keyed task with, by what it does when a key fails. */
export interface EndedByKey {
  readonly continue: never
  readonly park: never
  readonly stop: KeyStopped
}
