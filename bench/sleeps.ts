/**
 * A program: 100,000 sleeps of 10 ms, at most 50,000 at once, in the contestant that its argument names. Prints the time
 * and the peak memory of the whole process, which is why each contestant loads no more than it needs.
 */
import { performance } from "node:perf_hooks"
import type { Sample } from "./harness.ts"

const tasks = 100_000
const atOnce = 50_000
const sleep = 10

/** Counts what slept, and how many did so at the same time. */
const slept = { now: 0, most: 0, total: 0 }
const began = (): void => {
  slept.most = Math.max(slept.most, ++slept.now)
}
const ended = (): void => {
  slept.now--
  slept.total++
}

const sampleSince = (start: number): Sample => {
  const ms = performance.now() - start
  if (slept.total !== tasks || slept.most > atOnce || ms < (tasks / atOnce) * sleep) {
    throw new Error(`${slept.total} sleeps, ${slept.most} of them at once, in ${ms} ms`)
  }
  return { ms, "MB peak rss": process.resourceUsage().maxRSS / 1024 }
}

const timers = async (): Promise<Sample> => {
  const start = performance.now()
  let next = 0
  const one = async () => {
    while (next < tasks) {
      next++
      began()
      await new Promise((resolve) => setTimeout(resolve, sleep))
      ended()
    }
  }
  await Promise.all(Array.from({ length: atOnce }, one))
  return sampleSince(start)
}

const effects = async () => {
  const { Effect } = await import("effect")
  const work = Effect.suspend(() => {
    began()
    return Effect.map(Effect.sleep(sleep), ended)
  })
  return { Effect, work }
}

const forEach = async (): Promise<Sample> => {
  const { Effect, work } = await effects()
  const start = performance.now()
  await Effect.runPromise(
    Effect.forEach(Array.from({ length: tasks }), () => work, { concurrency: atOnce, discard: true })
  )
  return sampleSince(start)
}

const millrace = async (): Promise<Sample> => {
  const { Effect, work } = await effects()
  const { WorkerPool } = await import("millrace")
  const program = Effect.gen(function* () {
    const pool = yield* WorkerPool.make({ name: "sleeps", concurrency: atOnce })
    const start = performance.now()
    for (let i = 0; i < tasks; i++) yield* pool.fork(work)
    yield* pool.awaitIdle
    return sampleSince(start)
  })
  return Effect.runPromise(Effect.scoped(program))
}

const contestants: Readonly<Record<string, () => Promise<Sample>>> = { millrace, timers, forEach }

const name = process.argv[2] ?? ""
const sample = await contestants[name]?.()
if (sample === undefined) throw new Error(`no contestant "${name}": one of ${Object.keys(contestants).join(", ")}`)
process.stdout.write(`${JSON.stringify(sample)}\n`)
