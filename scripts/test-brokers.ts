/**
 * Runs the tests that need real servers, with the servers: `npm run test:brokers -- [NAME…] [arguments of vitest]`. Without
 * names, all of them. Servers that it had to start are stopped afterwards; `npm run services -- up` before keeps them.
 */
import { spawnSync } from "node:child_process"
import { join, resolve } from "node:path"
import { isName, type Name, services } from "./services/all.ts"
import { down, up } from "./services/commands.ts"
import { exclusively, read } from "./services/state.ts"

const root = resolve(import.meta.dirname, "..")
const args = process.argv.slice(2)
const other = args.findIndex((arg) => !isName(arg))
const named = args.slice(0, other === -1 ? args.length : other).filter(isName)
const names: ReadonlyArray<Name> = named.length > 0 ? named : Object.keys(services).filter(isName)
const before = read()

// Ctrl-C ends the tests, and then the servers are stopped all the same.
process.on("SIGINT", () => undefined)
const report = (error: unknown) => {
  console.error(error instanceof Error ? error.message : error)
  process.exitCode = 1
}

await exclusively(() => up(names.map((name) => ({ name })))).catch(report)
const { status } = spawnSync(
  process.execPath,
  [
    join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    "--config",
    "test/vitest.config.ts",
    "--project",
    "brokers",
    ...args.slice(named.length)
  ],
  { cwd: root, stdio: "inherit", env: { ...process.env, MILLRACE_BROKERS: names.join(",") } }
)
if (status !== 0) process.exitCode = 1
const ours = names.filter((name) => before[name]?.state !== "up")
if (ours.length > 0)
  await exclusively(() =>
    down(
      ours.map((name) => ({ name })),
      { purge: false }
    )
  ).catch(report)
