/**
 * Items through the pool, results in their order: takes the items one by one as there is room, so they may be very many.
 *
 * It waits in the fiber that called it, for whichever task ends first, so that a deadlock is found here as everywhere: a
 * task that maps over its own pool may hold the slot that its items need.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Wait } from "./Deadlock.ts"
import type { Engine } from "./Engine.ts"
import type { AnyEffect, AnyExit, Extra, Task } from "./Task.ts"
import { Flag } from "./Task.ts"
import type { AnyFiber, Resume } from "./Waiting.ts"

/** How many items are taken in one go before the event loop has a turn. */
const mostTaken = 2048

/** How many tasks keep every slot busy, and no more than the pool has room for. */
export const windowOf = (engine: Engine): number => {
  const { concurrency } = engine.slots
  return Math.max(1, Math.min(2 * concurrency, concurrency + engine.settings.capacity))
}

export class Mapping {
  private readonly results: Array<unknown> = []
  /** The tasks that have not ended, running, queued or waiting for a place. */
  private readonly pending = new Set<Task>()
  private taken = 0
  private exhausted = false
  private over = false
  /** True while this looks for what to do next; whatever ends meanwhile has it look again. */
  private looking = false
  private lookAgain = false
  /** Where one has ended meanwhile, it waits for nothing. */
  private readonly wait: Wait = { _tag: "Tasks", tasks: () => (this.lookAgain ? [] : [...this.pending]) }
  private leave: (() => void) | undefined
  private resume: Resume = () => {}
  private readonly engine: Engine
  private readonly fiber: AnyFiber
  private readonly iterator: Iterator<AnyEffect>
  private readonly extra: () => Extra | undefined

  constructor(engine: Engine, fiber: AnyFiber, work: Iterable<AnyEffect>, extra: () => Extra | undefined) {
    this.engine = engine
    this.fiber = fiber
    this.iterator = work[Symbol.iterator]()
    this.extra = extra
  }

  /** All results; the first failure cancels what has not ended, and so does an interruption. */
  get await(): AnyEffect {
    return Effect.callback((resume) => {
      this.resume = resume
      this.look()
      return Effect.suspend(() => {
        this.close()
        return this.giveUp
      })
    })
  }

  private look(): void {
    if (this.looking || this.over) {
      this.lookAgain = true
      return
    }
    this.looking = true
    do {
      this.lookAgain = false
      this.leave?.()
      this.leave = undefined
      try {
        this.take()
      } catch (defect) {
        // What the iterator or an option threw.
        this.fail(Exit.die(defect))
      }
      if (this.over) break
      if (this.pending.size === 0) {
        if (!this.exhausted) break
        this.close()
        this.engine.waiting.resumeWaiter(this.resume, Exit.succeed(this.results))
        break
      }
      this.leave = this.engine.waiting.note(this.fiber, this.wait, (deadlock) => this.fail(Exit.die(deadlock)))
    } while (this.lookAgain)
    this.looking = false
  }

  private take(): void {
    for (let n = 0; !this.over && !this.exhausted && this.pending.size < windowOf(this.engine); n++) {
      if (n === mostTaken) {
        this.engine.dispatcher.scheduleTask(() => this.look(), 0)
        return
      }
      const next = this.iterator.next()
      if (next.done === true) this.exhausted = true
      else this.accept(next.value, this.taken++)
    }
  }

  private accept(work: AnyEffect, index: number): void {
    const { admission } = this.engine
    const task = this.engine.make(this.fiber, work, this.extra(), Flag.Read)
    const refusal = admission.offer(task)
    if (refusal === "blocked") {
      admission.enterBlocked(task)
      admission.waitForPlace(task, (closed) => {
        if (closed === undefined) return
        this.pending.delete(task)
        this.fail(Exit.fail(closed))
      })
    } else if (refusal !== undefined) return this.fail(Exit.fail(refusal))
    const result = task.result
    if (result !== undefined) return this.ended(result, index)
    this.pending.add(task)
    task.observe((exit) => {
      this.pending.delete(task)
      // What fails while it is being cancelled is reported instead.
      if (this.over) return false
      this.ended(exit, index)
      this.look()
      return true
    })
  }

  private ended(exit: AnyExit, index: number): void {
    if (Exit.isSuccess(exit)) this.results[index] = exit.value
    else this.fail(exit)
  }

  private fail(exit: AnyExit): void {
    if (this.over) return
    this.close()
    this.engine.waiting.resumeNow(() => this.resume(Effect.andThen(this.giveUp, exit)), exit)
  }

  private close(): void {
    this.over = true
    this.leave?.()
    this.leave = undefined
    // Nobody waits for these results any more.
    for (const task of this.pending) task.unmark(Flag.Read)
  }

  /** Cancels what has not ended, waits for its end, and lets go of the iterator. */
  private get giveUp(): Effect.Effect<void> {
    return Effect.uninterruptible(
      Effect.suspend(() => this.engine.cancelAllAndWait([...this.pending], this.fiber)).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            if (!this.exhausted) this.iterator.return?.()
          })
        )
      )
    )
  }
}
