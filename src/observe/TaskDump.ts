/**
 * What runs in this process and what it waits for, as text for a person.
 *
 * **When to use**
 *
 * Use {@link layerOnSignal} in a program that may hang one day: send it the signal and read where it stands. Use
 * {@link dump} to write the same from anywhere, such as a failing test.
 *
 * **Example** (Reading a dump)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Registry, TaskDump, WorkerPool } from "millrace"
 *
 * const program = Effect.gen(function*() {
 *   const pool = yield* WorkerPool.make({ name: "mail", concurrency: 1 })
 *   yield* pool.submit(Effect.sleep("20 millis"), { name: "send" })
 *   yield* pool.submit(Effect.sleep("20 millis"), { name: "send again" })
 *   return yield* TaskDump.dump
 * })
 *
 * const own = Effect.provideService(program, Registry.Registry, Registry.makeUnsafe())
 * const text = await Effect.runPromise(Effect.scoped(own))
 * text.includes("send again") // => true
 * text.includes("waits for a slot (1 running)") // => true
 * ```
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Entry, TaskInfo } from "../registry/Registry.ts"
import { Registry, watch } from "../registry/Registry.ts"

/** Tasks of one entry that a dump lists; of the others it gives the number. */
const mostTasks = 100

/** All that runs now, as text. */
export const dump: Effect.Effect<string> = Effect.map(Registry, (registry) => {
  const entries = [...registry.entries]
  if (entries.length === 0) return "Nothing is open: no pool, no background supervisor."
  return entries.map(formatEntry).join("\n\n")
})

const formatEntry = (entry: Entry): string => {
  const counts = entry.counts().filter(([name, count]) => count !== 0 || name === "running" || name === "queued")
  const tasks = entry.tasks()
  const lines = [
    `${entry.kind} "${entry.name}" (${entry.notes().join(", ")}): ${counts.map(([name, count]) => `${count} ${name}`).join(", ")}`,
    ...tasks.slice(0, mostTasks).map((task) => `  ${formatTask(task)}`)
  ]
  if (tasks.length > mostTasks) lines.push(`  … and ${tasks.length - mostTasks} more`)
  return lines.join("\n")
}

const formatTask = (task: TaskInfo): string =>
  [
    `${task.state.padEnd(11)} ${task.name}`,
    task.name === task.id ? undefined : `(${task.id})`,
    task.key === undefined ? undefined : `key "${task.key}"`,
    task.age === undefined ? undefined : `${formatAge(task.age)} old`,
    task.waitsFor === undefined ? undefined : `waits for ${task.waitsFor}`,
    task.site === undefined ? undefined : `submitted at ${task.site}`
  ]
    .filter((part) => part !== undefined)
    .join("  ")

const formatAge = (millis: number): string =>
  millis < 1000 ? `${Math.round(millis)} ms` : `${(millis / 1000).toFixed(1)} s`

/** The signals that a program may use for a dump. Only macOS and BSD have SIGINFO. */
type DumpSignal = "SIGUSR1" | "SIGUSR2" | "SIGINFO" | "SIGQUIT"

/**
 * Writes a dump to standard error whenever the process gets the signal (default SIGUSR2). While the layer is there, tasks
 * record when and where they were submitted, about a microsecond each. Provide it around the pools that it shall show. Without
 * it these signals have their usual effect, which for all but SIGUSR1 and SIGINFO is to end the process.
 */
export const layerOnSignal = (signal: DumpSignal = "SIGUSR2"): Layer.Layer<never> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      yield* watch()
      const context = yield* Effect.context<never>()
      const onSignal = () => {
        process.stderr.write(`${Effect.runSyncWith(context)(dump)}\n`)
      }
      yield* Effect.acquireRelease(
        Effect.sync(() => process.on(signal, onSignal)),
        () => Effect.sync(() => process.off(signal, onSignal))
      )
    })
  )
