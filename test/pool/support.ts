/** What the tests of the pool share. */
import { assert } from "@effect/vitest"
import { Effect, Latch, Logger } from "effect"
import { WorkerPool } from "millrace"

/** The accounting of a pool, after checking that it is balanced. */
export const balanced = (pool: {
  readonly accounting: Effect.Effect<WorkerPool.Accounting>
}): Effect.Effect<WorkerPool.Accounting> =>
  Effect.map(pool.accounting, (accounting) => {
    assert.isTrue(WorkerPool.isBalanced(accounting), JSON.stringify(accounting))
    return accounting
  })

/** A task that runs until it is told to go on, and tells that it has begun. */
export const gate = Effect.sync(() => {
  const open = Latch.makeUnsafe()
  const begun = Latch.makeUnsafe()
  return {
    /** The task. */
    pass: Effect.andThen(begun.open, open.await),
    begun: begun.await,
    open: open.open
  }
})

/** Runs the effect and returns with its result what was logged at a warning or worse, each with its annotations. */
export const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make<unknown, void>((options) => {
      const { annotations, cause, level, message } = Logger.formatStructured.log(options)
      if (level === "WARN" || level === "ERROR") {
        lines.push(`${level} ${String(message)} ${JSON.stringify(annotations)} ${cause ?? ""}`)
      }
    })
    return Effect.map(Effect.provide(effect, Logger.layer([logger])), (result) => [result, lines] as const)
  })
