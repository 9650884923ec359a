/**
 * What a user of the published package sees: packs it, installs the tarball into an empty project, type-checks an import of
 * every subpath there, and runs it.
 */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"

/** Subpaths that have nothing at run time. */
const typesOnly = ["./Driver", "./Envelope"]

const root = resolve(import.meta.dirname, "..")
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
const project = mkdtempSync(join(tmpdir(), "millrace-consumer-"))
const run = (command: string, ...args: ReadonlyArray<string>) =>
  execFileSync(command, args, { cwd: project, stdio: ["ignore", "pipe", "inherit"], encoding: "utf8" })

try {
  const tarball = execFileSync("npm", ["pack", "--silent", "--pack-destination", project], {
    cwd: root,
    encoding: "utf8"
  })
    .trim()
    .split("\n")
    .at(-1)
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "consumer", private: true, type: "module" }))
  run(
    "npm",
    "install",
    "--silent",
    "--no-audit",
    "--no-fund",
    `./${tarball}`,
    `effect@${manifest.devDependencies.effect}`,
    // The drivers take options of Node's own TLS.
    `@types/node@${manifest.devDependencies["@types/node"]}`,
    // Clients of brokers are there for those who use them.
    ...Object.keys(manifest.peerDependenciesMeta).map((client) => `${client}@${manifest.devDependencies[client]}`)
  )

  const subpaths = Object.keys(manifest.exports).filter((subpath) => subpath !== "./package.json")
  const imports = subpaths.map((subpath, i) => `import * as M${i} from "${manifest.name}${subpath.slice(1)}"`)
  const used = subpaths.map((subpath, i) => `console.log("${subpath}", Object.keys(M${i}).length > 0)`)
  writeFileSync(join(project, "main.ts"), [...imports, ...used].join("\n"))
  // Stricter than what the package is built with, and without skipLibCheck for its own declarations to be checked too.
  const compilerOptions = {
    module: "NodeNext",
    target: "ES2022",
    strict: true,
    exactOptionalPropertyTypes: true,
    noEmit: true,
    types: ["node"],
    skipLibCheck: false,
    lib: ["ES2023", "DOM"]
  }
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["main.ts"] }))
  run(process.execPath, join(root, "node_modules/typescript/bin/tsc"), "-p", project)
  const output = run(process.execPath, join(project, "main.ts"))
  const empty = output.split("\n").filter((line) => line.endsWith("false"))
  const lines = output.trim().split("\n").length
  if (lines !== subpaths.length || empty.join() !== typesOnly.map((subpath) => `${subpath} false`).join()) {
    throw new Error(output)
  }
  console.log(`${subpaths.length} subpaths import and type-check: ${subpaths.join(" ")}`)
} finally {
  rmSync(project, { recursive: true, force: true })
}
