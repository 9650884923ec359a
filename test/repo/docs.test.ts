/**
 * Every TypeScript example in the documentation (docstrings, README, docs) compiles and runs, and says the truth:
 * `expression // => value` is an assertion.
 */
import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"

const root = resolve(import.meta.dirname, "../..")
const output = join(root, "node_modules/.cache/millrace-docs")

interface Example {
  readonly source: string
  readonly line: number
  readonly code: string
}

const sources = [
  ...readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .map((file) => `src/${file}`),
  ...readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file}`),
  "README.md"
]

const examplesOf = (source: string): ReadonlyArray<Example> => {
  const text = readFileSync(join(root, source), "utf8")
  const lines = text.split("\n").map((line) => (source.endsWith(".ts") ? line.replace(/^\s*\* ?/, "") : line))
  const examples: Array<Example> = []
  for (let i = 0; i < lines.length; i++) {
    if (lines[i] !== "```ts") continue
    const end = lines.indexOf("```", i)
    examples.push({ source, line: i + 1, code: lines.slice(i + 1, end).join("\n") })
  }
  return examples
}

const examples = sources.flatMap(examplesOf)

/** An example as a module: assertions instead of comments, and its imports first. */
const toModule = ({ code, line, source }: Example): string => {
  const lines = code.split("\n").map((text) => {
    const match = /^(?:const (\w+) = )?(.*?) \/\/ => (.*)$/.exec(text)
    if (match === null) return text
    const [, name, expression, expected] = match
    const value = name === undefined ? expression : name
    const before = name === undefined ? "" : `const ${name} = ${expression}\n`
    return `${before}assert.deepStrictEqual(${value}, ${expected}, ${JSON.stringify(`${source}:${line}`)})`
  })
  return `import assert from "node:assert/strict"\n${lines.join("\n")}\nexport {}\n`
}

const fileOf = (example: Example): string => join(output, `${example.source.replaceAll("/", "-")}-${example.line}.ts`)

describe("examples in the documentation", () => {
  // The README's example keeps its messages where a program of its own would.
  const removeDatabase = () => {
    for (const end of ["", "-wal", "-shm"]) rmSync(join(root, `orders.db${end}`), { force: true })
  }

  beforeAll(() => {
    removeDatabase()
    rmSync(output, { recursive: true, force: true })
    mkdirSync(output, { recursive: true })
    for (const example of examples) writeFileSync(fileOf(example), toModule(example))
    // The path is relative to this folder; `millrace` is the package around it.
    const config = {
      extends: "../../../tsconfig.json",
      compilerOptions: {
        noUnusedLocals: false,
        noUnusedParameters: false,
        typeRoots: ["../../@types"],
        paths: {
          millrace: ["../../../src/index.ts"],
          "millrace/memory": ["../../../src/brokers/memory/index.ts"],
          "millrace/nsq": ["../../../src/brokers/nsq/index.ts"],
          "millrace/sqlite": ["../../../src/brokers/sqlite/index.ts"],
          "millrace/testing": ["../../../src/testing/index.ts"]
        }
      },
      include: ["*.ts"]
    }
    writeFileSync(join(output, "tsconfig.json"), JSON.stringify(config))
  })
  afterAll(() => {
    removeDatabase()
    rmSync(output, { recursive: true, force: true })
  })

  it("there are examples, in the docstrings of every public module and in the README", () => {
    for (const source of [
      "README.md",
      "src/pool/WorkerPool.ts",
      "src/pool/Background.ts",
      "src/registry/Registry.ts",
      "src/observe/TaskDump.ts",
      "src/brokers/memory/Memory.ts",
      "src/brokers/sqlite/SqliteClient.ts",
      "docs/brokers/sqlite.md",
      "src/testing/everyInterruptionPoint.ts",
      "src/testing/FaultyBroker.ts",
      "src/testing/conformance/brokerConformance.ts",
      "src/testing/TcpProxy.ts"
    ]) {
      assert.isTrue(
        examples.some((example) => example.source === source),
        `${source} has no example`
      )
    }
  })

  it("compile", { timeout: 60_000 }, () => {
    try {
      execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", output], {
        encoding: "utf8"
      })
    } catch (error) {
      assert.fail(String((error as { stdout?: string }).stdout))
    }
  })

  for (const example of examples) {
    it(`${example.source}:${example.line} runs`, async () => {
      await import(/* @vite-ignore */ pathToFileURL(fileOf(example)).href)
    })
  }
})

describe("docs/operations.md", () => {
  const source = sources
    .filter((file) => file.endsWith(".ts"))
    .map((file) => readFileSync(join(root, file), "utf8"))
    .join("\n")
  const rows = readFileSync(join(root, "docs/operations.md"), "utf8").match(/^ *\| .*`.*$/gm) ?? []

  it("says of every line of the log, and of every status, what the library says", () => {
    assert.isAbove(rows.length, 25)
    for (const row of rows) {
      // What stands between the backquotes of its first column, apart from the blanks that are different each time.
      for (const [, line = ""] of (row.split("|")[1] ?? "").matchAll(/`([^`]+)`/g)) {
        for (const part of line.split("…")) assert.include(source, part.trim(), row)
      }
    }
  })
})
