/**
 * Contestants that are programs of their own: memory is measured in a fresh process, and Go is another language. Each
 * prints its sample as one line of JSON.
 */
import { execFile } from "node:child_process"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import type { Contestant, Sample } from "./harness.ts"

const exec = promisify(execFile)

export const program = (name: string, command: string, args: ReadonlyArray<string>): Contestant => ({
  name,
  program: true,
  measure: async () => {
    const { stdout } = await exec(command, args)
    return JSON.parse(stdout) as Sample
  }
})

/** A file of this folder, run by this Node with the flags of this process. */
export const script = (name: string, file: string, ...args: ReadonlyArray<string>): Contestant =>
  program(name, process.execPath, [...process.execArgv, join(import.meta.dirname, file), ...args])

const built = new Map<string, Promise<string | undefined>>()

const build = async (folder: string): Promise<string | undefined> => {
  const binary = join(tmpdir(), `millrace-bench-${folder}-${process.getuid?.() ?? "user"}`)
  try {
    await exec("go", ["build", "-o", binary, "."], { cwd: join(import.meta.dirname, folder) })
    return binary
  } catch (error) {
    const reason =
      (error as NodeJS.ErrnoException).code === "ENOENT" ? "go is not installed" : `go build failed: ${error}`
    process.stderr.write(`The Go rows are left out: ${reason}\n`)
    return undefined
  }
}

/** The program of a folder with Go in it, built once, where Go is installed. */
export const goBinary = (folder: string): Promise<string | undefined> => {
  const binary = built.get(folder) ?? build(folder)
  built.set(folder, binary)
  return binary
}

/** The Go programs, where Go is installed; otherwise none. */
export const goPrograms = async (
  ...peers: ReadonlyArray<{ readonly name: string; readonly args: ReadonlyArray<string> }>
): Promise<ReadonlyArray<Contestant>> => {
  const binary = await goBinary("go")
  return binary === undefined ? [] : peers.map(({ args, name }) => program(name, binary, args))
}
