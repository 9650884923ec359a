/**
 * Runs an example as its users do: as a process of its own, of which a test sees what it prints and how it ends.
 */
import { spawn } from "node:child_process"
import { createServer } from "node:net"
import { join } from "node:path"
import { onTestFinished } from "vitest"

export const root = new URL("../..", import.meta.url).pathname
const node = join(root, "node_modules/.bin/node")

export interface Program {
  readonly pid: number
  readonly stdout: () => string
  readonly stderr: () => string
  /** The exit code, or the signal that ended it, when all its output has been read. */
  readonly ended: Promise<number | NodeJS.Signals | null>
  readonly kill: (signal: NodeJS.Signals) => void
}

/** Starts `examples/<path>`. It is killed when the test has finished, if it has not ended by then. */
export const start = (
  path: string,
  options: {
    readonly args?: ReadonlyArray<string>
    readonly env?: Readonly<Record<string, string>>
    readonly cwd?: string
  } = {}
): Program => {
  const file = join(root, "examples", path)
  const child = spawn(node, ["--conditions=millrace-source", file, ...(options.args ?? [])], {
    env: { ...process.env, ...options.env },
    cwd: options.cwd ?? root,
    stdio: ["ignore", "pipe", "pipe"]
  })
  let stdout = ""
  let stderr = ""
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text
  })
  const ended = new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code, signal) => resolve(code ?? signal))
  })
  onTestFinished(() => {
    child.kill("SIGKILL")
  })
  return {
    pid: child.pid ?? Number.NaN,
    stdout: () => stdout,
    stderr: () => stderr,
    ended,
    kill: (signal) => {
      child.kill(signal)
    }
  }
}

/** The address that a service prints when it is ready. */
export const addressOf = (program: Program): Promise<string> =>
  poll("the service says where it is", () => /http:\/\/[\d.]+:\d+/.exec(program.stdout())?.[0])

/** The lines for a shell that a service prints, as a script. */
export const linesToTry = (program: Program): string =>
  program
    .stdout()
    .split("\n")
    .filter((line) => line.startsWith("  "))
    .join("\n")

/** An address at which nobody listens. */
export const nowhere = async (): Promise<string> => {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  return `http://127.0.0.1:${typeof address === "object" ? address?.port : address}`
}

/** Asks again and again until there is an answer; fails with `what` when there is none within the bound. */
export const poll = async <A>(
  what: string,
  ask: () => A | undefined | Promise<A | undefined>,
  boundMillis = 20_000
): Promise<A> => {
  const bound = Date.now() + boundMillis
  for (;;) {
    const answer = await ask()
    if (answer !== undefined) return answer
    if (Date.now() > bound) throw new Error(`Not within ${boundMillis} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
