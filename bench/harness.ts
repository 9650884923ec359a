/**
 * How a benchmark is measured: all contestants take turns in rounds, so that a slow minute of the machine falls on every
 * one of them, and the median of the rounds is what counts.
 *
 * Each has a process of its own, which lives through all rounds and waits while the others have their turn: none of them
 * runs on code that was compiled for another, or pays for another's garbage.
 */
import { fork } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { performance } from "node:perf_hooks"
import type { Answer } from "./worker.ts"

/** What one measurement found, by unit. */
export type Sample = Readonly<Record<string, number>>

export interface Contestant {
  readonly name: string
  /** Does the work once and checks that it was done; a contestant that skips work throws. */
  readonly measure: () => Promise<Sample>
  /** It starts a fresh process for every measurement by itself, so it needs none of its own and no warm-up. */
  readonly program?: boolean
}

export interface Bench {
  readonly name: string
  /** What the work is, in one line. */
  readonly about: string
  /** The units of its samples, and whether more or less of each is better. */
  readonly units: Readonly<Record<string, "more" | "less">>
  readonly ours: Contestant
  readonly peers: ReadonlyArray<Contestant>
  /** Programs that this machine may not have. */
  readonly optional?: () => Promise<ReadonlyArray<Contestant>>
}

/** One line of the result. A ratio above 1 means that ours is better, whatever the unit. */
export interface Row {
  readonly bench: string
  readonly peer: string
  readonly ours: number
  readonly theirs: number
  readonly ratio: number
  readonly unit: string
}

/** Throws unless every task ran once: `sum` is that of the results, which are the numbers from 0 to `tasks - 1`. */
export const verify = (sum: number, tasks: number): void => {
  const expected = (tasks * (tasks - 1)) / 2
  if (sum !== expected) throw new Error(`${tasks} tasks should have summed up to ${expected}, but did to ${sum}`)
}

/** The sample of a bench that measures a rate. */
export const rate = (tasks: number, start: number): Sample => ({
  "tasks/s": (tasks * 1000) / (performance.now() - start)
})

/** The sample of a bench that measures the cost of one task. */
export const cost = (tasks: number, start: number): Sample => ({
  "ns/task": ((performance.now() - start) * 1e6) / tasks
})

const median = (numbers: ReadonlyArray<number>): number => {
  const sorted = numbers.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/**
 * Rounds of each contestant before those that count, in which compilers and heaps find their shape: at least so many, and more
 * where they are short, since a compiler looks at how often code has run.
 */
const warmUps = { least: 3, most: 10, millisEach: 4_000 }

/** A contestant at its place in the rounds. */
interface Runner {
  readonly contestant: Contestant
  readonly samples: Array<Sample>
  readonly measure: () => Promise<Sample>
  readonly close: () => void
}

const openRunner = (suite: string, bench: Bench, contestant: Contestant): Runner => {
  if (contestant.program) return { contestant, samples: [], measure: contestant.measure, close: () => {} }
  const child = fork(join(import.meta.dirname, "worker.ts"), [suite, bench.name, contestant.name])
  const exited = once(child, "exit").then((): [Answer] => [{ problem: "its process ended" }])
  const measure = async () => {
    const answered = once(child, "message") as Promise<[Answer]>
    child.send("measure")
    const [answer] = await Promise.race([answered, exited])
    if ("problem" in answer) throw new Error(`${contestant.name} failed in ${bench.name}: ${answer.problem}`)
    return answer.sample
  }
  return { contestant, samples: [], measure, close: () => child.disconnect() }
}

export const run = async (suite: string, bench: Bench, rounds: number): Promise<ReadonlyArray<Row>> => {
  const peers = [...bench.peers, ...((await bench.optional?.()) ?? [])]
  const runners = [bench.ours, ...peers].map((contestant) => openRunner(suite, bench, contestant))
  try {
    const warm = performance.now() + warmUps.millisEach * runners.length
    for (let round = 0; round < warmUps.most && (round < warmUps.least || performance.now() < warm); round++) {
      for (const { contestant, measure } of runners) if (!contestant.program) await measure()
    }
    for (let round = 0; round < rounds; round++) {
      const first = round % runners.length
      for (const { measure, samples } of [...runners.slice(first), ...runners.slice(0, first)]) {
        samples.push(await measure())
      }
    }
  } finally {
    for (const runner of runners) runner.close()
  }
  const [ours, ...theirs] = runners
  const value = (runner: Runner | undefined, unit: string) =>
    median((runner?.samples ?? []).map((sample) => sample[unit] ?? Number.NaN))
  return theirs.flatMap((runner) =>
    Object.entries(bench.units).map(([unit, better]) => {
      const mine = value(ours, unit)
      const other = value(runner, unit)
      const ratio = better === "more" ? mine / other : other / mine
      return { bench: bench.name, peer: runner.contestant.name, ours: mine, theirs: other, ratio, unit }
    })
  )
}
