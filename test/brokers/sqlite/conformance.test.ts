/** The conformance suite on SQLite: one file, several connections, processes that are killed. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, it } from "@effect/vitest"
import { Context, Effect, Logger } from "effect"
import { SqlClient } from "effect/sql"
import { Sqlite } from "millrace/sqlite"
import type { Fixture } from "millrace/testing"
import { brokerConformance } from "millrace/testing"

const folder = mkdtempSync(join(tmpdir(), "millrace-conformance-"))
const filename = join(folder, "broker.db")

const fixture: Fixture = {
  layer: Sqlite.layer({ filename }),
  abilities: {
    delay: "native",
    priority: "native",
    order: "native",
    replay: "native",
    browse: "native",
    results: "none"
  },
  lease: 1000,
  retain: (topic) => Sqlite.layer({ filename, retention: { [topic]: "1 hour" } }),
  scale: Number(process.env.MILLRACE_CONFORMANCE_SCALE ?? 0.1),
  worker: {
    file: new URL("conformance.worker.ts", import.meta.url),
    env: { MILLRACE_SQLITE: filename },
    execArgv: ["--conditions=millrace-source"]
  },
  transactions: {
    run: (effect, context) => Context.getUnsafe(context, SqlClient.SqlClient).withTransaction(effect),
    overlap: false
  }
}

describe("conformance", () => {
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  for (const { limit, run, skipped, title } of brokerConformance(fixture)) {
    it.skipIf(skipped !== undefined)(title, { timeout: limit + 1000 }, () =>
      Effect.runPromise(Effect.provide(run, Logger.layer([])))
    )
  }
})
