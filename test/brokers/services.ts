/**
 * The real servers, for tests: where they are, and how to restart and kill them.
 *
 * Where a server is not up, its tests are skipped and say so. They fail instead when `MILLRACE_BROKERS` names it: a list such
 * as `kafka,nsq`, or `all`. `npm run test:brokers` starts the servers and sets it.
 */
import { execFile } from "node:child_process"
import { resolve } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { type Name, services } from "../../scripts/services/all.ts"
import { isAlive } from "../../scripts/services/process.ts"
import { type Noted, read } from "../../scripts/services/state.ts"

/** A server that is up. */
export interface Server<N extends Name> {
  readonly name: N
  readonly urls: ReturnType<(typeof services)[N]["urls"]>
  /** Stop in good order and start, on the same data and ports; ends when it answers. Of one process, if named. */
  readonly restart: (process?: string) => Effect.Effect<void>
  /** SIGKILL. It stays dead until `start`, at the latest until the scope ends. */
  readonly kill: (process?: string) => Effect.Effect<void, never, Scope.Scope>
  readonly start: Effect.Effect<void>
  /** Runs the server's own command line tool, such as `["rabbitmqctl", "list_queues"]`, and returns what it prints. */
  readonly exec: (command: ReadonlyArray<string>) => Effect.Effect<string>
}

/** The server, or why there is none. */
export const service = <N extends Name>(
  name: N,
  noted: Noted = read(),
  required: string | undefined = process.env.MILLRACE_BROKERS
): Server<N> | { readonly name: N; readonly missing: string; readonly required: boolean } => {
  const found = noted[name]
  const processes = Object.values(found?.processes ?? {})
  if (found?.state === "up" && processes.every(isAlive)) return serverOf(name, found.ports)
  return {
    name,
    missing: `${name} is not up; \`npm run test:brokers -- ${name}\` runs its tests`,
    required: (required ?? "").split(/[\s,]+/).some((word) => word === name || word === "all")
  }
}

/** A `describe` for tests that need the server. */
export const describeWith = <N extends Name>(name: N, tests: (server: Server<N>) => void): void => {
  const found = service(name)
  if (!("missing" in found)) {
    describe(name, () => tests(found))
  } else if (found.required) {
    it(`${name} is there`, () => assert.fail(`${found.missing}. MILLRACE_BROKERS says that it is required.`))
  } else {
    console.warn(`SKIPPED: ${found.missing}`)
    it.skip(found.missing)
  }
}

const serverOf = <N extends Name>(name: N, ports: Readonly<Record<string, number>>): Server<N> => {
  const target = (process?: string) => (process === undefined ? name : `${name}/${process}`)
  const start = Effect.asVoid(command(["up", name]))
  return {
    name,
    // Each of the definitions makes its own urls from its own ports; TypeScript does not see that the two belong together.
    urls: services[name].urls(ports as never) as Server<N>["urls"],
    restart: (process) => Effect.asVoid(command(["restart", target(process)])),
    kill: (process) => Effect.acquireRelease(Effect.asVoid(command(["kill", target(process)])), () => start),
    start,
    exec: (args) => command(["exec", name, ...args])
  }
}

const main = resolve(import.meta.dirname, "../../scripts/services/main.ts")

const command = (args: ReadonlyArray<string>): Effect.Effect<string> =>
  Effect.callback((resume) => {
    execFile(process.execPath, [main, ...args], (error, stdout, stderr) => {
      resume(error === null ? Effect.succeed(stdout) : Effect.die(new Error(`${args.join(" ")}: ${stdout}${stderr}`)))
    })
  })
