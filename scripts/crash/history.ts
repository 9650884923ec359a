/**
 * What the processes wrote down, and what must be true of it.
 *
 * Every process appends lines of JSON to files of its own. A line is written by one call that returns when the system has it,
 * so it survives a SIGKILL of the process that wrote it.
 */
import { appendFileSync, closeSync, fstatSync, openSync, readdirSync, readFileSync, readSync } from "node:fs"
import { join } from "node:path"
import { expectedDead, failuresOf, groups, maxAttempts } from "./scenario.ts"

/** One line. Times are nanoseconds of the clock that all processes of a machine share. */
export type Line =
  | {
      readonly event: "sending" | "confirmed"
      readonly id: string
      readonly key: string
      readonly n: number
      readonly at: string
    }
  | {
      readonly event: "began" | "handled" | "failed"
      readonly group: string
      readonly id: string
      readonly key: string
      readonly n: number
      readonly attempt: number
      readonly at: string
    }

export const writer = (folder: string, name: string) => {
  const file = join(folder, `${name}.jsonl`)
  return (line: Line extends infer L ? (L extends Line ? Omit<L, "at"> : never) : never): void =>
    appendFileSync(file, `${JSON.stringify({ ...line, at: String(process.hrtime.bigint()) })}\n`)
}

type Run = Extract<Line, { readonly group: string }>

export interface History {
  readonly confirmed: ReadonlySet<string>
  readonly sent: ReadonlyMap<string, { readonly key: string; readonly n: number }>
  readonly runs: ReadonlyArray<Run>
  readonly handledBy: (group: string) => ReadonlySet<string>
}

/** Whole numbers, of which the longer one is larger. */
const byTime = (a: Line, b: Line): number => a.at.length - b.at.length || (a.at < b.at ? -1 : 1)

export const read = (folder: string): History => {
  const lines = readdirSync(folder)
    .filter((name) => name.endsWith(".jsonl"))
    .flatMap((name) => readFileSync(join(folder, name), "utf8").split("\n"))
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Line)
    .toSorted(byTime)
  const confirmed = new Set<string>()
  const sent = new Map<string, { readonly key: string; readonly n: number }>()
  const runs: Array<Run> = []
  for (const line of lines) {
    if (line.event === "confirmed") confirmed.add(line.id)
    else if (line.event === "sending") sent.set(line.id, { key: line.key, n: line.n })
    else if ("group" in line) runs.push(line)
  }
  const handledBy = (group: string) =>
    new Set(runs.filter((run) => run.event === "handled" && run.group === group).map(({ id }) => id))
  return { confirmed, sent, runs, handledBy }
}

/** Whether all is worked off, asked again and again: only what was written since the last time is read. */
export class Progress {
  private readonly folder: string
  private readonly places = new Map<string, number>()
  private readonly open = new Map<string, Set<string>>(groups.map(({ name }) => [name, new Set()]))
  private readonly handled = new Map<string, Set<string>>(groups.map(({ name }) => [name, new Set()]))

  constructor(folder: string) {
    this.folder = folder
  }

  /** Every group has handled what was confirmed, but for what becomes a dead letter. */
  isDone(): boolean {
    for (const name of readdirSync(this.folder)) if (name.endsWith(".jsonl")) this.read(name)
    return [...this.open.values()].every(({ size }) => size === 0)
  }

  private read(name: string): void {
    const place = this.places.get(name) ?? 0
    const file = openSync(join(this.folder, name), "r")
    const news = Buffer.alloc(fstatSync(file).size - place)
    readSync(file, news, 0, news.length, place)
    closeSync(file)
    // The last line may not be whole yet.
    const whole = news.subarray(0, news.lastIndexOf(10) + 1)
    this.places.set(name, place + whole.length)
    for (const line of whole.toString().split("\n")) if (line !== "") this.note(JSON.parse(line) as Line)
  }

  private note(line: Line): void {
    if (line.event === "confirmed" && !expectedDead(line.id)) {
      for (const [group, open] of this.open) if (!this.handled.get(group)?.has(line.id)) open.add(line.id)
    } else if (line.event === "handled") {
      this.handled.get(line.group)?.add(line.id)
      this.open.get(line.group)?.delete(line.id)
    }
  }
}

export interface Letter {
  readonly id: string
  readonly group: string
  readonly attempts: number
}

export interface Result {
  readonly confirmed: number
  readonly handled: number
  readonly attempts: number
  readonly lost: number
  readonly reordered: number
  readonly duplicates: number
  /** A sentence for everything that must not be; duplicates may. */
  readonly problems: ReadonlyArray<string>
}

export const check = (history: History, letters: ReadonlyArray<Letter>, ordered: boolean): Result => {
  const problems: Array<string> = []
  let lost = 0
  let reordered = 0
  let duplicates = 0
  for (const group of groups) {
    const runs = history.runs.filter((run) => run.group === group.name)
    const handled = history.handledBy(group.name)
    const dead = new Set(letters.filter((letter) => letter.group === group.name).map(({ id }) => id))
    for (const id of history.confirmed) {
      if (handled.has(id) || dead.has(id)) continue
      lost++
      problems.push(`lost: ${id} (key ${history.sent.get(id)?.key}) was confirmed and never handled by "${group.name}"`)
    }
    duplicates += runs.filter(({ event }) => event === "handled").length - handled.size
    for (const id of handled) {
      if (expectedDead(id)) problems.push(`handled: ${id} of "${group.name}" succeeded although it always fails`)
      if (!history.sent.has(id)) problems.push(`unknown: ${id} was handled by "${group.name}" and never sent`)
    }
    for (const id of dead) {
      if (!expectedDead(id))
        problems.push(`dead: ${id} of "${group.name}" became a dead letter although it can succeed`)
    }
    problems.push(...attemptsOf(runs, group.name))
    if (ordered && group.order) {
      const wrong = orderOf(runs)
      reordered += wrong.length
      problems.push(...wrong)
    }
  }
  return {
    confirmed: history.confirmed.size,
    handled: history.runs.filter(({ event }) => event === "handled").length,
    attempts: history.runs.filter(({ event }) => event === "began").length,
    lost,
    reordered,
    duplicates,
    problems
  }
}

/** A crash may repeat an attempt, but none may be left out, none may be counted that was not made. */
const attemptsOf = (runs: ReadonlyArray<Run>, group: string): Array<string> => {
  const problems: Array<string> = []
  for (const [id, ofMessage] of Map.groupBy(runs, ({ id }) => id)) {
    const seen = new Set(ofMessage.filter(({ event }) => event === "began").map(({ attempt }) => attempt))
    const most = Math.max(...seen)
    if (seen.size !== most) problems.push(`attempts: ${id} of "${group}" had attempts ${[...seen].join(", ")}`)
    if (most > Math.min(failuresOf(id) + 1, maxAttempts)) {
      problems.push(`attempts: ${id} of "${group}" was tried ${most} times, and fails ${failuresOf(id)} times`)
    }
  }
  return problems
}

/**
 * In each key the messages are handled in the order in which they were published, repetitions left aside, and no two runs
 * overlap. What becomes a dead letter takes its place in the order when it is set aside, and is not looked at here.
 */
const orderOf = (runs: ReadonlyArray<Run>): Array<string> => {
  const problems: Array<string> = []
  for (const [key, ofKey] of Map.groupBy(runs, ({ key }) => key)) {
    let latest = -1
    const done = new Set<string>()
    for (const run of ofKey) {
      if (run.event === "began" && run.n < latest && !done.has(run.id)) {
        problems.push(`order: of key ${key}, ${run.n} began after ${latest} had been handled`)
      }
      // The last attempt of a dead letter may be repeated like any other.
      if (run.event === "failed" && run.attempt >= maxAttempts) done.add(run.id)
      if (run.event !== "handled") continue
      done.add(run.id)
      latest = Math.max(latest, run.n)
    }
    let open: Run | undefined
    for (const run of ofKey) {
      if (run.event === "began") {
        // The one before may have been killed in its run, which leaves no end: then it comes first again.
        if (open !== undefined && open.id !== run.id && open.n < run.n) {
          problems.push(`overlap: of key ${key}, ${run.n} began while ${open.n} had not ended`)
        }
        open = run
      } else if (open?.id === run.id) open = undefined
    }
  }
  return problems
}
