/**
 * The process of one contestant: measures once for each message, until its parent lets go of it.
 *
 * Arguments: the suite, the bench and the contestant.
 */
import { suites } from "./suites.ts"

export type Answer = { readonly sample: Readonly<Record<string, number>> } | { readonly problem: string }

const [suite = "", name = "", contestantName = ""] = process.argv.slice(2)
const bench = suites[suite]?.find((bench) => bench.name === name)
const contestant = [bench?.ours, ...(bench?.peers ?? [])].find((contestant) => contestant?.name === contestantName)
if (contestant === undefined) throw new Error(`no contestant "${contestantName}" in ${suite}/${name}`)

const measure = async (): Promise<Answer> => {
  try {
    // What the round before left behind is not to be collected in this one.
    globalThis.gc?.()
    return { sample: await contestant.measure() }
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) }
  }
}

process.on("message", async () => process.send?.(await measure()))
process.on("disconnect", () => process.exit())
