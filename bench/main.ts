/**
 * `npm run bench`: measures ours beside its peers, in the same run, and prints the ratios.
 *
 *     npm run bench                             all suites
 *     npm run bench -- pool                     one suite
 *     npm run bench -- pool --only run-256      one bench of it; may be given several times
 *     npm run bench -- pool --json              one JSON object a line, and nothing else on stdout
 *     npm run bench -- pool --rounds 11         more than the usual 5 rounds
 */
import { cpus } from "node:os"
import { parseArgs } from "node:util"
import type { Row } from "./harness.ts"
import { run } from "./harness.ts"
import { suites } from "./suites.ts"

const fail = (problem: string): never => {
  process.stderr.write(`${problem}\n`)
  process.exit(2)
}

const readArguments = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        json: { type: "boolean", default: false },
        only: { type: "string", multiple: true, default: [] },
        rounds: { type: "string", default: "5" }
      }
    })
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error))
  }
}

const { positionals, values } = readArguments()
const rounds = Number(values.rounds)
if (!Number.isInteger(rounds) || rounds < 1) fail(`--rounds must be a whole number from 1, got ${values.rounds}`)

const names = positionals.length > 0 ? positionals : Object.keys(suites)
const all = names.flatMap((suite) => {
  const benches = suites[suite] ?? fail(`no suite "${suite}"; there is ${Object.keys(suites).join(", ")}`)
  return benches.map((bench) => ({ suite, bench }))
})
for (const name of values.only) {
  if (!all.some(({ bench }) => bench.name === name)) {
    fail(`no bench "${name}"; there is ${all.map(({ bench }) => bench.name).join(", ")}`)
  }
}
const selected = all.filter(({ bench }) => values.only.length === 0 || values.only.includes(bench.name))

/** Four digits say all that a measurement can. */
const rounded = (n: number): number => (Math.abs(n) >= 1000 ? Math.round(n) : Number(n.toPrecision(4)))

const json = (row: Row): string =>
  JSON.stringify({ ...row, ours: rounded(row.ours), theirs: rounded(row.theirs), ratio: rounded(row.ratio) })

const readable = (row: Row): string => {
  const number = (n: number) => rounded(n).toLocaleString("en-US").padStart(12)
  return `  ${row.peer.padEnd(34)}${number(row.ours)}${number(row.theirs)}  ${row.unit.padEnd(12)}${row.ratio.toFixed(2).padStart(7)}x`
}

if (!values.json) {
  process.stdout.write(
    `Node ${process.version}, ${cpus().length} × ${cpus()[0]?.model ?? "unknown processor"}, median of ${rounds} interleaved rounds\n` +
      "A ratio above 1 means that ours is better.\n"
  )
}

for (const { bench, suite } of selected) {
  if (!values.json) {
    process.stdout.write(`\n${bench.name}: ${bench.about}\n  ${"peer".padEnd(34)}${"ours".padStart(12)}`)
    process.stdout.write(`${"theirs".padStart(12)}  ${"unit".padEnd(12)}${"ratio".padStart(8)}\n`)
  }
  for (const row of await run(suite, bench, rounds))
    process.stdout.write(`${values.json ? json(row) : readable(row)}\n`)
}
