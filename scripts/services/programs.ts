/**
 * Finds the programs that the servers need and, as root on Debian or Ubuntu, installs what is missing.
 */
import { type ExecFileOptions, execFile, execFileSync } from "node:child_process"
import { accessSync, constants, existsSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import type { Program } from "./Service.ts"

/** Something that a person has to do before this can work. */
export class Missing extends Error {}

/** The path of the program, or undefined. */
export const find = (program: Program): string | undefined =>
  [...(program.folders ?? []).flatMap(expand), ...(process.env.PATH ?? "").split(delimiter)]
    .map((folder) => join(folder, program.command))
    .find(isExecutable)

/** The path of the program; throws `Missing` where there is none. */
export const need = (program: Program): string => {
  const path = find(program)
  if (path === undefined) throw new Missing(adviceFor([program]))
  return path
}

/** Runs a program to its end; rejects with what it wrote when it fails. */
export const run = (command: string, args: ReadonlyArray<string>, options: ExecFileOptions = {}): Promise<void> =>
  new Promise((resolve, reject) => {
    execFile(command, args, options, (error, stdout, stderr) => {
      if (error === null) resolve()
      else reject(new Error(`${error.message}\n${stdout}\n${stderr}`))
    })
  })

const isExecutable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** `/usr/lib/postgresql/*\/bin`: the folders that are there, highest version first. */
const expand = (folder: string): ReadonlyArray<string> => {
  const [before = "", after] = folder.split("*")
  if (after === undefined) return [folder]
  if (!existsSync(before)) return []
  return readdirSync(before)
    .sort((a, b) => Number(b) - Number(a))
    .map((version) => before + version + after)
}

const adviceFor = (programs: ReadonlyArray<Program>): string => {
  const commands = [...new Set(programs.map((program) => program.command))].join(", ")
  const packages = [...new Set(programs.map((program) => program.apt))].join(" ")
  return (
    `not on this machine: ${commands}. Run the same command as root on Debian or Ubuntu and it installs them, ` +
    `or install them yourself (Debian: apt-get install ${packages}), or use Docker: docker compose up -d`
  )
}

/** Throws `Missing` with what to do when one is not there. */
export const requireAll = (programs: ReadonlyArray<Program>): void => {
  const missing = programs.filter((program) => find(program) === undefined)
  if (missing.length > 0) throw new Missing(adviceFor(missing))
}

/** Installs the packages of what is missing, all at once; does nothing where it may not. */
export const installMissing = (programs: ReadonlyArray<Program>): void => {
  const missing = programs.filter((program) => find(program) === undefined)
  const mayInstall = process.getuid?.() === 0 && find({ command: "apt-get", apt: "apt" }) !== undefined
  if (missing.length === 0 || !mayInstall) return
  const packages = [...new Set(missing.map((program) => program.apt))]
  console.log(`installing ${packages.join(", ")}`)
  withoutStarting(() => {
    try {
      apt("update")
    } catch {
      console.log("apt-get update failed; the lists that are there may do")
    }
    apt("install", "--no-install-recommends", ...packages)
  })
}

const apt = (...args: ReadonlyArray<string>): void => {
  execFileSync("apt-get", ["-qq", "-y", "-o", "DPkg::Lock::Timeout=300", ...args], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }
  })
}

/** Debian starts a server as soon as it is installed, on its usual port. The servers here are our own, so it shall not. */
const withoutStarting = (install: () => void): void => {
  const policy = "/usr/sbin/policy-rc.d"
  if (existsSync(policy)) return install()
  // Ctrl-C ends apt-get, and then the file below is removed all the same.
  const ignore = () => undefined
  process.on("SIGINT", ignore)
  writeFileSync(policy, "#!/bin/sh\nexit 101\n", { mode: 0o755 })
  try {
    install()
  } finally {
    rmSync(policy, { force: true })
    process.off("SIGINT", ignore)
  }
}
