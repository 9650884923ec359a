/**
 * The conformance suite as tests, for any driver.
 *
 * `MILLRACE_CONFORMANCE_SCALE=1` runs it in full. What does not run is skipped with the reason in its title, and duplicates are
 * told at the end.
 */
import { afterAll, describe, it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import type { Fixture } from "millrace/testing"
import { brokerConformance } from "millrace/testing"

export const scale = Number(process.env.MILLRACE_CONFORMANCE_SCALE ?? 0.1)

export const conformance = (name: string, fixture: Fixture): void => {
  const duplicates: Array<string> = []
  const cases = brokerConformance({ scale, ...fixture })

  const test = ({ id, limit, run, skipped, title }: (typeof cases)[number]) =>
    it.skipIf(skipped !== undefined)(title, { timeout: limit + 1000 }, async () => {
      const report = await Effect.runPromise(Effect.provide(run, Logger.layer([])))
      if (report.duplicates > 0) duplicates.push(`${id}: ${report.duplicates} beside ${report.sent}`)
    })

  describe(name, () => {
    afterAll(() => {
      if (duplicates.length > 0) console.info(`${name}, handled more than once: ${duplicates.join(", ")}`)
    })
    describe.concurrent("at the same time", () => {
      for (const one of cases) if (!one.alone) test(one)
    })
    describe("one after the other", () => {
      for (const one of cases) if (one.alone) test(one)
    })
  })
}
