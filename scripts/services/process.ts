/**
 * Processes that outlive this one: started detached, found again by pid, ended by pid.
 */
import { execFileSync, spawn } from "node:child_process"
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync } from "node:fs"
import { setTimeout as sleep } from "node:timers/promises"
import { isTaken } from "./probe.ts"
import type { Process } from "./Service.ts"

/** A process as it is written down. */
export interface Pid {
  readonly pid: number
  /** When the process began. A number that was given to another process later does not have it. */
  readonly began: string
}

/** How long a server may take to start, and to stop after it was asked to. */
const limits = { start: 90_000, stop: 40_000 }

const hasProc = existsSync("/proc/self/stat")

/** State, parent and start of a process, from what the kernel says after the name (which may contain anything). */
const statOf = (pid: number) => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8")
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
    return { state: fields[0], parent: Number(fields[1]), began: fields[19] }
  } catch {
    return undefined
  }
}

const ps = (...args: ReadonlyArray<string>): string => {
  try {
    return execFileSync("ps", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim()
  } catch {
    return ""
  }
}

/** When the process began, or undefined when there is none (one that is dead and not yet collected counts as none). */
const beginningOf = (pid: number): string | undefined => {
  if (!hasProc) return ps("-o", "lstart=", "-p", String(pid)) || undefined
  const stat = statOf(pid)
  if (stat === undefined || stat.state === "Z" || stat.state === "X") return undefined
  return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${stat.began}`
}

/** This very process. */
export const self = (): Pid => ({ pid: process.pid, began: beginningOf(process.pid) ?? "" })

/** Whether it still runs, and is not another one with the same number. */
export const isAlive = ({ began, pid }: Pid): boolean => beginningOf(pid) === began

const parents = (): ReadonlyArray<readonly [pid: number, parent: number]> =>
  hasProc
    ? readdirSync("/proc")
        .filter((name) => /^\d+$/.test(name))
        .map((name) => [Number(name), statOf(Number(name))?.parent ?? 0])
    : ps("-axo", "pid=,ppid=")
        .split("\n")
        .map((line) => line.trim().split(/\s+/).map(Number))
        .map(([pid = 0, parent = 0]) => [pid, parent])

/** The process and all below it. */
const familyOf = (root: number): ReadonlyArray<Pid> => {
  const all = parents()
  const family = [root]
  for (const member of family) family.push(...all.filter(([, parent]) => parent === member).map(([pid]) => pid))
  return family.map((pid) => ({ pid, began: beginningOf(pid) ?? "" }))
}

const signal = (process_: Pid, name: NodeJS.Signals): void => {
  if (!isAlive(process_)) return
  try {
    process.kill(process_.pid, name)
  } catch {
    // It ended by itself in the meantime.
  }
}

const gone = async (processes: ReadonlyArray<Pid>, within: number): Promise<boolean> => {
  const until = Date.now() + within
  while (processes.some(isAlive)) {
    if (Date.now() > until) return false
    await sleep(20)
  }
  return true
}

/** SIGKILL to the process and its children, which is what a crash of the server looks like to everybody else. */
export const kill = async (process_: Pid): Promise<void> => {
  if (!isAlive(process_)) return
  const family = familyOf(process_.pid)
  for (const member of family) signal(member, "SIGKILL")
  if (!(await gone(family, limits.stop))) throw new Error(`process ${process_.pid} does not die`)
}

/** Asks it to stop, and kills it when it does not. */
export const stop = async (process_: Pid, name: NodeJS.Signals): Promise<void> => {
  signal(process_, name)
  if (await gone([process_], limits.stop)) return
  console.log(`process ${process_.pid} has not stopped after ${limits.stop / 1000} s; killing it`)
  await kill(process_)
}

/**
 * Starts it detached, with its output in the log, and resolves when it answers. `noted` gets the pid at once, so that nothing
 * runs that nobody knows of. Rejects with the end of the log.
 */
export const start = async (
  spec: Process,
  { cwd, log }: { readonly cwd: string; readonly log: string },
  noted: (pid: Pid) => void
): Promise<void> => {
  if (await isTaken(spec.port)) {
    throw new Error(
      `port ${spec.port} of ${spec.name} is taken by another program; \`down --purge\` lets go of the port`
    )
  }
  const output = openSync(log, "a")
  const before = statSync(log).size
  const child = spawn(spec.command, spec.args, {
    cwd,
    detached: true,
    stdio: ["ignore", output, output],
    env: { ...process.env, ...spec.env },
    ...spec.user
  })
  closeSync(output)
  let ended: string | undefined
  child.on("error", (error) => {
    ended = error.message
  })
  child.on("exit", (code, by) => {
    ended = `it ended with ${by ?? `code ${code}`}`
  })
  child.unref()
  const fail = (reason: string) => {
    const tail = readFileSync(log).subarray(before).toString().trimEnd().split("\n").slice(-40)
    return new Error(`${spec.name} did not start: ${reason}. The end of ${log}:\n${tail.join("\n")}`)
  }
  // The event that says why comes in a later turn.
  await sleep(0)
  if (child.pid === undefined) throw fail(ended ?? "no process")
  const started: Pid = { pid: child.pid, began: beginningOf(child.pid) ?? "" }
  noted(started)
  const late = await answers(spec, limits.start, () => ended !== undefined)
  if (ended !== undefined) throw fail(ended)
  if (late !== undefined) {
    await kill(started)
    throw fail(`no answer within ${limits.start / 1000} s (${late.message})`)
  }
}

/** Asks until the process answers; resolves with the last refusal when the time is over or `isHopeless`. */
export const answers = async (
  spec: Process,
  within: number,
  isHopeless: () => boolean = () => false
): Promise<Error | undefined> => {
  const until = Date.now() + within
  for (;;) {
    try {
      await spec.ready()
      return undefined
    } catch (error) {
      if (Date.now() > until || isHopeless()) return error instanceof Error ? error : new Error(String(error))
    }
    await sleep(50)
  }
}
