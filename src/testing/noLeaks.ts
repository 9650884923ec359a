/**
 * Fails when an effect leaves something open or running: a pool or consumer that nobody closed, or a task or handler that was
 * abandoned.
 *
 * It sees what the effect itself opened, through a registry of its own, so tests that run side by side do not see each
 * other's.
 *
 * **Example** (A scope that was never closed)
 *
 * ```ts
 * import { Effect, Exit, Scope } from "effect"
 * import { WorkerPool } from "millrace"
 * import { noLeaks } from "millrace/testing"
 *
 * const leaky = Effect.gen(function*() {
 *   const forgotten = yield* Scope.make()
 *   yield* WorkerPool.make({ name: "forgotten", concurrency: 1 }).pipe(Scope.provide(forgotten))
 * })
 *
 * const exit = await Effect.runPromise(Effect.exit(noLeaks(leaky)))
 * Exit.isFailure(exit) // => true
 * ```
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Entry, Event } from "../registry/Registry.ts"
import { makeUnsafe, Registry } from "../registry/Registry.ts"

/** Something was left open or running. */
export class LeakFound extends Schema.TaggedError<LeakFound>("millrace/LeakFound")("LeakFound", {
  leaks: Schema.Array(Schema.String)
}) {
  override get message(): string {
    return `Left behind:\n${this.leaks.map((leak) => `  - ${leak}`).join("\n")}`
  }
}

const describe = (entry: Entry): string => {
  const counts = entry.counts().filter(([, count]) => count > 0)
  const tasks = entry.tasks().map((task) => `${task.name} (${task.state}${task.site ? `, ${task.site}` : ""})`)
  return `${entry.kind} "${entry.name}" is still open: ${[...counts.map(([name, count]) => `${count} ${name}`), ...tasks].join(", ")}`
}

/** Runs the effect in a scope and a registry of its own; dies with `LeakFound` when it leaves anything behind. */
export const noLeaks = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, Scope.Scope>> =>
  Effect.suspend(() => {
    const registry = makeUnsafe()
    const abandoned: Array<string> = []
    const stop = registry.listen((event: Event) => {
      if (event._tag === "Closed" && hasAbandoned(event.report)) {
        for (const one of event.report.abandoned) {
          const what = typeof one === "string" ? `the handler of message "${one}"` : `task "${one.name}"`
          abandoned.push(`${what} of ${event.entry.kind} "${event.entry.name}" was abandoned`)
        }
      }
    })
    return Effect.scoped(effect).pipe(
      Effect.provideService(Registry, registry),
      Effect.tap(() => {
        const leaks = [...[...registry.entries].map(describe), ...abandoned]
        return leaks.length === 0 ? Effect.void : Effect.die(new LeakFound({ leaks }))
      }),
      Effect.ensuring(Effect.sync(stop))
    )
  })

/** Of a pool the tasks, of a consumer the ids of the messages. */
const Report = Schema.Struct({
  abandoned: Schema.Array(Schema.Union([Schema.String, Schema.Struct({ name: Schema.String })]))
})

const hasAbandoned = Schema.is(Report)
