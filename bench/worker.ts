/**
 * The process of one contestant: measures once for each message, until its parent lets go of it.
 *
 * Arguments: the suite, the bench and the contestant.
 */
import type { Sample } from "./harness.ts"
import { suites } from "./suites.ts"

export type Answer = { readonly sample: Sample } | { readonly problem: string }

const [suite = "", name = "", contestantName = ""] = process.argv.slice(2)
const bench = suites[suite]?.find((bench) => bench.name === name)
const contestant = [bench?.ours, ...(bench?.peers ?? [])].find((contestant) => contestant?.name === contestantName)
if (contestant === undefined) throw new Error(`no contestant "${contestantName}" in ${suite}/${name}`)

/**
 * A process that waits for its turn gives its heap back meanwhile, and having it again is most of what a short round takes.
 * So the work is done until this many milliseconds have passed, and the last time counts.
 */
const warmMillis = 500

const measure = async (): Promise<Answer> => {
  try {
    const began = performance.now()
    let sample: Sample
    do {
      // What the round before left behind is not to be collected in this one.
      globalThis.gc?.()
      sample = await contestant.measure()
    } while (performance.now() - began < warmMillis)
    return { sample }
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) }
  }
}

process.on("message", async () => process.send?.(await measure()))
process.on("disconnect", () => process.exit())
