/**
 * The conformance suite for brokers: what every driver must do, as cases to run with any test runner.
 *
 * **When to use**
 *
 * Use it for a driver of your own, against the real broker. It is what the drivers of Millrace are tested with.
 *
 * **Details**
 *
 * - A fixture says what the driver can and gives the suite its layer; hooks that restart the broker, cut the network or run
 *   another process make more cases run. A case that does not run says why in `skipped`; show that, so that nobody takes
 *   silence for success.
 * - The suite does what the abilities allow, and proves each "no": asked for what it has not, the driver must answer
 *   `Rejected` with `Unsupported`.
 * - "All arrive" means equal sets of ids. Duplicates are counted in the report of each case; where nothing goes wrong there
 *   must be none in the cases that say so.
 * - Cases run on real time, wait for conditions with a limit, and each has a topic of its own, so they may run side by side,
 *   except for those that restart the broker or cut the network (`alone`).
 *
 * **Example** (With vitest)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Memory } from "millrace/memory"
 * import { brokerConformance } from "millrace/testing"
 *
 * const cases = brokerConformance({
 *   layer: Memory.layer({ store: Memory.makeStore() }),
 *   abilities: { delay: "native", priority: "native", order: "native", replay: "native", browse: "native", results: "none" },
 *   lease: 200
 * })
 *
 * // With vitest: for (const { limit, run, skipped, title } of cases)
 * //   it.skipIf(skipped)(title, { timeout: limit }, () => Effect.runPromise(run))
 * const credit = cases.find(({ id }) => id === "credit")
 * const report = await Effect.runPromise(credit?.run ?? Effect.die("no such case"))
 * report.sent // => 10
 * ```
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { abilities } from "./cases/abilities.ts"
import { closing } from "./cases/closing.ts"
import { contract } from "./cases/contract.ts"
import { deadLetters } from "./cases/deadLetters.ts"
import { delivery } from "./cases/delivery.ts"
import { failures } from "./cases/failures.ts"
import { kills } from "./cases/kills.ts"
import { leases } from "./cases/leases.ts"
import { ordering } from "./cases/order.ts"
import { outages } from "./cases/outages.ts"
import { payloads } from "./cases/payloads.ts"
import { transactions } from "./cases/transactions.ts"
import type { Fixture } from "./Fixture.ts"
import type { CaseReport, Spec } from "./Harness.ts"
import { ConformanceFailed, Env } from "./Harness.ts"

export type { BlackHole, Fixture, Transactions, Worker } from "./Fixture.ts"
export type { CaseReport } from "./Harness.ts"
export { ConformanceFailed } from "./Harness.ts"
export { conformanceWorker } from "./worker.ts"

/** One case, to be made a test. */
export interface ConformanceCase {
  /** Short and stable. */
  readonly id: string
  /** What must hold, with the reason where it is not run. */
  readonly title: string
  /** Why it does not run with this fixture; `undefined` where it does. */
  readonly skipped: string | undefined
  /** Whether nothing else may use the broker meanwhile. */
  readonly alone: boolean
  /** Milliseconds after which it fails by itself; a test runner should allow it a little more. */
  readonly limit: number
  /** Fails with what the driver does not do. */
  readonly run: Effect.Effect<CaseReport, ConformanceFailed>
}

const specs: ReadonlyArray<Spec> = [
  ...delivery,
  ...contract,
  ...abilities,
  ...ordering,
  ...failures,
  ...deadLetters,
  ...leases,
  ...closing,
  ...payloads,
  ...transactions,
  ...kills,
  ...outages
]

const alone = new Set(outages.map(({ id }) => id))

/** All cases, those among them that this fixture does not allow. */
export const brokerConformance = (fixture: Fixture): ReadonlyArray<ConformanceCase> =>
  specs.map((spec) => {
    const skipped = spec.needs?.(fixture)
    const title = skipped === undefined ? spec.name : `${spec.name} (not run: ${skipped})`
    const { patience } = new Env(fixture, "")
    const limit = patience * (spec.longest ?? 4)
    return { id: spec.id, title, skipped, alone: alone.has(spec.id), limit, run: runCase(spec, fixture, limit) }
  })

const runCase = (spec: Spec, fixture: Fixture, limit: number): Effect.Effect<CaseReport, ConformanceFailed> =>
  Effect.suspend(() => {
    const env = new Env(fixture, `mr-${crypto.randomUUID().slice(0, 8)}`)
    let found: Cause.Cause<unknown> | undefined
    const run = Effect.tapCause(spec.run(env), (cause) =>
      Effect.sync(() => {
        found ??= cause
      })
    )
    return Effect.scoped(run).pipe(
      Effect.timeoutOrElse({ duration: limit, orElse: () => Effect.fail(`it has not ended within ${limit} ms`) }),
      // What failed first tells more than that closing what it left open took too long.
      Effect.catchCause((cause) => Effect.fail(failureOf(spec, found ?? cause)))
    )
  })

const failureOf = ({ name }: Spec, cause: Cause.Cause<unknown>): ConformanceFailed => {
  const error = Cause.squash(cause)
  if (error instanceof ConformanceFailed) {
    return new ConformanceFailed({ case: name, detail: error.detail, cause: error.cause })
  }
  const detail = typeof error === "string" ? error : Cause.pretty(cause)
  return new ConformanceFailed({ case: name, detail, cause: error })
}
