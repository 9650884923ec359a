/**
 * Tasks by priority: higher first, first in first out within one priority.
 *
 * A list for each priority in use, highest first. Nearly every pool has one, so that is the short path; the cost of a
 * push grows with the number of different priorities queued at the same time, not with the number of tasks.
 */
import type { Task } from "./Task.ts"
import { priorityOf } from "./Task.ts"
import { TaskList } from "./TaskList.ts"

interface Level {
  readonly priority: number
  readonly tasks: TaskList
}

export class Levels {
  size = 0
  private readonly normal: Level = { priority: 0, tasks: new TaskList() }
  private readonly levels: Array<Level> = [this.normal]

  push(task: Task): void {
    this.at(priorityOf(task)).tasks.push(task)
    this.size++
  }

  remove(task: Task): void {
    const level = this.at(priorityOf(task))
    level.tasks.remove(task)
    this.size--
    if (level.tasks.size === 0 && level !== this.normal) this.levels.splice(this.levels.indexOf(level), 1)
  }

  /** The task whose turn it is: the first of the highest priority. */
  first(): Task | undefined {
    if (this.levels.length === 1) return this.normal.tasks.head
    for (const level of this.levels) {
      if (level.tasks.head !== undefined) return level.tasks.head
    }
    return undefined
  }

  /** The task that has waited longest among those of the lowest priority. */
  lowest(): Task | undefined {
    for (let i = this.levels.length - 1; i >= 0; i--) {
      const head = this.levels[i]?.tasks.head
      if (head !== undefined) return head
    }
    return undefined
  }

  *[Symbol.iterator](): Generator<Task> {
    for (const level of [...this.levels]) yield* level.tasks
  }

  private at(priority: number): Level {
    if (priority === 0) return this.normal
    let low = 0
    let high = this.levels.length
    while (low < high) {
      const middle = (low + high) >>> 1
      // `middle` is below `high`, which is at most the length.
      if ((this.levels[middle] as Level).priority > priority) low = middle + 1
      else high = middle
    }
    const found = this.levels[low]
    if (found?.priority === priority) return found
    const level: Level = { priority, tasks: new TaskList() }
    this.levels.splice(low, 0, level)
    return level
  }
}
