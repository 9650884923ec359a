/** Drivers that do one thing wrong, each around a right one, and the cases of the suite that must notice. */
import { contents } from "./contents.ts"
import { deliveries } from "./deliveries.ts"
import type { Mutant } from "./support.ts"

export { fixtureOf } from "./support.ts"

export const mutants: ReadonlyArray<Mutant> = [...deliveries, ...contents]
