/**
 * Failures that nobody has heard of, each reported once.
 *
 * A failed task whose handle may still be read is kept here, without keeping the handle alive: when the handle is collected
 * unread, or when the pool closes, the failure is reported. A task without a handle is reported at once.
 *
 * "Reported" is Effect's own error reporting where the program has set one up (`ErrorReporter`), else an error log, in both
 * cases in the context of the task: its log annotations and its span are those of the code that submitted it.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as ErrorReporter from "effect/ErrorReporter"
import type { Task } from "./Task.ts"

interface Failure {
  readonly pool: string
  readonly task: string
  readonly cause: Cause.Cause<unknown>
  readonly context: Context.Context<never>
}

export class Unread {
  private readonly failures = new Set<Failure>()
  private readonly byTask = new WeakMap<Task, Failure>()
  private readonly collected = new FinalizationRegistry<Failure>((failure) => {
    if (this.failures.delete(failure)) report(failure)
  })

  /** Notes the failure of a task whose handle somebody holds. */
  add(task: Task, cause: Cause.Cause<unknown>, context: Context.Context<never>): void {
    const failure = { pool: task.engine.name, task: task.name, cause, context }
    this.failures.add(failure)
    this.byTask.set(task, failure)
    this.collected.register(task, failure, task)
  }

  /** Somebody saw the result. */
  read(task: Task): void {
    const failure = this.byTask.get(task)
    if (failure === undefined) return
    this.byTask.delete(task)
    this.failures.delete(failure)
    this.collected.unregister(task)
  }

  /** The pool has closed: whoever has not read a failure by now hears of it here. */
  reportAll(): void {
    for (const failure of this.failures) report(failure)
    this.failures.clear()
  }
}

/** Reports a failure of which nobody else will hear. */
export const report = ({ cause, context, pool, task }: Failure): void => {
  const what = Cause.hasDies(cause) ? "died" : "failed"
  Effect.runForkWith(context)(
    Effect.withFiber((fiber) => {
      const span = fiber.cache.span
      return (
        fiber.getRef(ErrorReporter.CurrentErrorReporters).size > 0
          ? ErrorReporter.report(cause)
          : Effect.logError(`Task "${task}" of pool "${pool}" ${what} and nobody read its result`, cause)
      ).pipe(
        Effect.annotateLogs({
          pool,
          task,
          ...(span === undefined ? {} : { span: span._tag === "Span" ? span.name : span.spanId, traceId: span.traceId })
        })
      )
    })
  )
}
