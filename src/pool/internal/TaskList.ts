/**
 * A doubly linked list of tasks, linked through the tasks themselves.
 *
 * A task is in one list at a time (blocked, queued or running), so one pair of links serves all of them: adding allocates
 * nothing, and a task leaves from the middle, when it is cancelled or expires, as cheaply as from the front.
 */
import type { Task } from "./Task.ts"

export class TaskList {
  head: Task | undefined = undefined
  tail: Task | undefined = undefined
  size = 0

  push(task: Task): void {
    const tail = this.tail
    if (tail === undefined) {
      this.head = task
    } else {
      tail.next = task
      task.prev = tail
    }
    this.tail = task
    this.size++
  }

  /** Puts the task in the place of its number, which is mostly the last. */
  insert(task: Task): void {
    let prev = this.tail
    while (prev !== undefined && prev.sequence > task.sequence) prev = prev.prev
    const next = prev === undefined ? this.head : prev.next
    if (next === undefined) return this.push(task)
    task.prev = prev
    task.next = next
    next.prev = task
    if (prev === undefined) this.head = task
    else prev.next = task
    this.size++
  }

  remove(task: Task): void {
    const { next, prev } = task
    if (prev === undefined) this.head = next
    else prev.next = next
    if (next === undefined) this.tail = prev
    else next.prev = prev
    task.prev = undefined
    task.next = undefined
    this.size--
  }

  *[Symbol.iterator](): Generator<Task> {
    // The next link is read first: the reader may remove the task it was given.
    for (let task = this.head; task !== undefined; ) {
      const next: Task | undefined = task.next
      yield task
      task = next
    }
  }
}
