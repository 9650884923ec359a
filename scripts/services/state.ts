/**
 * The file that says which servers there are: where, on which ports, by which pids. Tests and programs read it; only the
 * commands here write it, one at a time.
 */
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { join, resolve } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { isAlive, type Pid, self } from "./process.ts"
import { host } from "./Service.ts"

/** Everything of the servers is below this folder, which git ignores. */
export const folder = resolve(import.meta.dirname, "../../.services")
const file = join(folder, "services.json")

export type State = "up" | "down" | "killed"

export interface NotedProcess extends Pid {
  readonly state: State
  readonly log: string
}

export interface NotedService {
  /** That of its processes; `partial` when they differ. */
  readonly state: State | "partial"
  readonly host: string
  readonly ports: Readonly<Record<string, number>>
  readonly urls: Readonly<Record<string, string>>
  /** Environment for the server's own command line tools, and their folder where the PATH does not do. */
  readonly env: Readonly<Record<string, string>>
  readonly tools?: string
  readonly processes: Readonly<Record<string, NotedProcess>>
}

export type Noted = Readonly<Record<string, NotedService>>

/** What is written down; empty when nothing is. */
export const read = (): Noted => {
  let text: string
  try {
    text = readFileSync(file, "utf8")
  } catch {
    return {}
  }
  return JSON.parse(text)
}

/** Replaces what is written about one server, or deletes it. */
export const write = (name: string, change: (service: NotedService | undefined) => NotedService | undefined): void => {
  const { [name]: current, ...others } = read()
  const next = change(current)
  const all: Noted = next === undefined ? others : { ...others, [name]: { ...next, state: stateOf(next) } }
  // A reader sees the old file or the new one, never a half.
  const draft = `${file}.${process.pid}`
  writeFileSync(draft, `${JSON.stringify(all, undefined, 2)}\n`)
  renameSync(draft, file)
}

const stateOf = (service: NotedService): State | "partial" => {
  const states = new Set(Object.values(service.processes).map((process_) => process_.state))
  const [first = "down"] = states
  return states.size > 1 ? "partial" : first
}

/** Ports that nobody else shall be given, though nothing may listen there yet. */
const promised = new Set<number>()

/**
 * A free port that stays ours while its server is down. Those that the system gives to outgoing connections do not: a client
 * that tries to reconnect could be given the very port it tries, connect to itself, and keep the server from it.
 */
export const pickPort = async (): Promise<number> => {
  for (const service of Object.values(read())) for (const port of Object.values(service.ports)) promised.add(port)
  for (let i = 0; i < 1000; i++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    if (promised.has(port)) continue
    promised.add(port)
    if (await canListen(port)) return port
  }
  throw new Error("no free port between 20000 and 32000")
}

const canListen = (port: number): Promise<boolean> =>
  new Promise((resolve_) => {
    const server = createServer()
    server.on("error", () => resolve_(false))
    server.listen(port, host, () => server.close(() => resolve_(true)))
  })

/** Runs the work while no other process does the same; waits for its turn. */
export const exclusively = async <A>(work: () => Promise<A>): Promise<A> => {
  const lock = join(folder, "lock")
  const own = `${lock}.${process.pid}`
  mkdirSync(folder, { recursive: true })
  // Written first and linked then, so that the lock never stands there without its owner.
  writeFileSync(own, JSON.stringify(self()))
  let said = false
  for (;;) {
    try {
      linkSync(own, lock)
      rmSync(own)
      break
    } catch {
      const owner = lockedBy(lock)
      if (owner !== undefined && isAlive(owner)) {
        if (!said) console.log(`waiting for process ${owner.pid}, which is at work on the servers`)
        said = true
        await sleep(100)
      } else {
        rmSync(lock, { force: true })
      }
    }
  }
  try {
    return await work()
  } finally {
    rmSync(lock, { force: true })
  }
}

const lockedBy = (lock: string): Pid | undefined => {
  try {
    return JSON.parse(readFileSync(lock, "utf8"))
  } catch {
    return undefined
  }
}

/** Where a server is, for programs that are given none. */
export const urlOf = (service: string, url: string): string => {
  const found = read()[service]?.urls[url]
  if (found === undefined) throw new Error(`${service} is not up; \`npm run services -- up ${service}\` starts it`)
  return found
}
