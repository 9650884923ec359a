/**
 * What can be done with the servers.
 */
import { spawnSync } from "node:child_process"
import { mkdirSync, rmSync } from "node:fs"
import { delimiter, join } from "node:path"
import { type Name, services } from "./all.ts"
import * as Processes from "./process.ts"
import { installMissing, requireAll } from "./programs.ts"
import { host, type Place, type Process, type Service } from "./Service.ts"
import { folder, type NotedProcess, pickPort, read, type State, write } from "./state.ts"

/** A server, or one process of it. */
export interface Target {
  readonly name: Name
  readonly process?: string | undefined
}

/** What was asked for and cannot be done; its message is for a person. */
export class Failed extends Error {}

/** Installs and starts what is not up. Servers start side by side; one that fails does not keep the others from starting. */
export const up = (targets: ReadonlyArray<Target>): Promise<void> => {
  installMissing(targets.flatMap(({ name }) => [...services[name].needs, ...missingBuilders(services[name])]))
  return each(targets, async (target) => {
    const began = Date.now()
    const started = await bringUp(target)
    say(target.name, started ? `up after ${((Date.now() - began) / 1000).toFixed(1)} s` : "is up")
  })
}

/** Stops in good order; the data and the ports stay, unless `purge`. */
export const down = (targets: ReadonlyArray<Target>, options: { readonly purge: boolean }): Promise<void> =>
  each(targets, async (target) => {
    if (options.purge && target.process !== undefined) throw new Failed("only a whole server can be purged")
    await takeDown(target, "down")
    if (options.purge) {
      rmSync(dataOf(services[target.name]), { recursive: true, force: true })
      write(target.name, () => undefined)
    }
    say(target.name, options.purge ? "down, data removed" : "down")
  })

/** SIGKILL. */
export const kill = (targets: ReadonlyArray<Target>): Promise<void> =>
  each(targets, async (target) => {
    await takeDown(target, "killed")
    say(target.name, `killed${target.process === undefined ? "" : ` ${target.process}`}`)
  })

/** Stop and start, on the same data and ports. */
export const restart = (targets: ReadonlyArray<Target>): Promise<void> =>
  each(targets, async (target) => {
    await takeDown(target, "down")
    const began = Date.now()
    await bringUp(target)
    say(target.name, `restarted, up after ${((Date.now() - began) / 1000).toFixed(1)} s`)
  })

/** Prints what there is; fails when something that was started is not there or does not answer. */
export const status = async (targets: ReadonlyArray<Target>): Promise<void> => {
  const noted = read()
  const bad: Array<string> = []
  for (const { name } of targets) {
    const service = noted[name]
    if (service === undefined) {
      say(name, "never started")
      continue
    }
    for (const spec of specsOf(name, service.ports)) {
      const process = service.processes[spec.name]
      const found = process === undefined ? "down" : await conditionOf(spec, process)
      if (found !== "up" && found !== "down") bad.push(`${spec.name}: ${found}`)
      const where = found === "down" ? "" : `pid ${process?.pid}, port ${spec.port}`
      say(name, `${spec.name.padEnd(11)} ${found.padEnd(9)} ${where}`)
    }
    for (const [url, value] of Object.entries(service.urls)) say("", `${url.padEnd(11)} ${value}`)
  }
  if (bad.length > 0) throw new Failed(`not as it should be: ${bad.join("; ")}`)
}

/** Runs a program in the environment in which the server's own tools find it. */
export const exec = (name: Name, command: ReadonlyArray<string>): void => {
  const [program, ...args] = command
  const service = read()[name]
  if (program === undefined) throw new Failed(`exec ${name} needs a command`)
  if (service === undefined) throw new Failed(`${name} was never started`)
  const PATH = service.tools === undefined ? process.env.PATH : `${service.tools}${delimiter}${process.env.PATH}`
  const { status } = spawnSync(program, args, { stdio: "inherit", env: { ...process.env, ...service.env, PATH } })
  process.exitCode = status ?? 1
}

const conditionOf = async (spec: Process, process: NotedProcess): Promise<State | "dead" | "no answer"> => {
  if (process.state !== "up") return process.state
  if (!Processes.isAlive(process)) return "dead"
  return (await Processes.answers(spec, 0)) === undefined ? "up" : "no answer"
}

/** Starts the processes that do not run, in order; tells whether there were any. */
const bringUp = async (target: Target): Promise<boolean> => {
  const { name } = target
  const service: Service = services[name]
  requireAll(service.needs)
  const place = await placeOf(service)
  if (service.isInstalled?.(place.installed) === false) {
    requireAll(service.buildNeeds ?? [])
    mkdirSync(place.installed, { recursive: true })
    await service.install?.(place.installed)
  }
  let started = false
  for (const spec of chosen(target, place)) {
    const noted = read()[name]?.processes[spec.name]
    if (noted !== undefined && Processes.isAlive(noted)) {
      // Longer than nsqd needs to find an nsqlookupd that came back.
      const refusal = await Processes.answers(spec, 45_000)
      if (refusal === undefined) continue
      throw new Failed(`${spec.name} runs (process ${noted.pid}) but gives no answer: ${refusal.message}. Try restart.`)
    }
    if (!started) {
      mkdirSync(place.data, { recursive: true })
      await service.prepare(place)
    }
    started = true
    const log = join(folder, "logs", `${spec.name}.log`)
    mkdirSync(join(folder, "logs"), { recursive: true })
    const note = (process: NotedProcess) =>
      write(name, (current) => ({
        state: "up",
        host,
        ports: place.ports,
        urls: service.urls(place.ports),
        env: service.env(place),
        ...(service.tools && { tools: service.tools() }),
        processes: { ...current?.processes, [spec.name]: process }
      }))
    let pid: Processes.Pid = { pid: 0, began: "" }
    try {
      await Processes.start(spec, { cwd: place.data, log }, (started) => {
        pid = started
        note({ ...pid, state: "up", log })
      })
    } catch (error) {
      note({ ...pid, state: "down", log })
      throw error
    }
  }
  return started
}

/** Ends the processes, the last one first. */
const takeDown = async (target: Target, how: "down" | "killed"): Promise<void> => {
  const { name } = target
  const service = read()[name]
  if (service === undefined) return
  for (const spec of chosen(target, at(services[name], service.ports)).reverse()) {
    const noted = service.processes[spec.name]
    if (noted === undefined || noted.state === "down") continue
    if (how === "killed") await Processes.kill(noted)
    else await Processes.stop(noted, spec.stop ?? "SIGTERM")
    write(
      name,
      (current) => current && { ...current, processes: { ...current.processes, [spec.name]: { ...noted, state: how } } }
    )
  }
}

const dataOf = (service: Service): string => service.data?.() ?? join(folder, "data", service.name)

const at = (service: Service, ports: Readonly<Record<string, number>>): Place => ({
  installed: join(folder, "installed", service.name),
  data: dataOf(service),
  ports
})

/** The server's place, with the ports that it had before, or new ones. */
const placeOf = async (service: Service): Promise<Place> => {
  const ports: Record<string, number> = { ...read()[service.name]?.ports }
  for (const name of service.ports) ports[name] ??= await pickPort()
  return at(service, ports)
}

/** The processes that are meant, in the order in which they start. */
const chosen = ({ name, process: only }: Target, place: Place): Array<Process> => {
  const all = specsOf(name, place.ports)
  const some = all.filter((spec) => only === undefined || spec.name === only)
  if (some.length > 0) return some
  throw new Failed(`there is no process "${only}"; there are: ${all.map((spec) => spec.name).join(" ")}`)
}

const specsOf = (name: Name, ports: Readonly<Record<string, number>>): Array<Process> => {
  const service: Service = services[name]
  return [...service.processes(at(service, ports))]
}

const missingBuilders = (service: Service) =>
  service.isInstalled?.(at(service, {}).installed) === false ? (service.buildNeeds ?? []) : []

const say = (name: string, text: string): void => console.log(`${name.padEnd(9)} ${text}`)

/** Does it for all servers at once, for the targets of one server in turn, and reports every failure, not only the first. */
const each = async (targets: ReadonlyArray<Target>, work: (target: Target) => Promise<void>): Promise<void> => {
  const failures: Array<string> = []
  const workOff = async (some: ReadonlyArray<Target>): Promise<void> => {
    for (const target of some) {
      try {
        await work(target)
      } catch (error) {
        failures.push(`${target.name}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
  }
  const byName = Map.groupBy(targets, ({ name }) => name)
  await Promise.all([...byName.values()].map(workOff))
  if (failures.length > 0) throw new Failed(failures.join("\n"))
}
