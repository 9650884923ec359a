/** The conformance suite on SQLite: one file, several connections, processes that are killed. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "@effect/vitest"
import { Context } from "effect"
import { SqlClient } from "effect/sql"
import { Sqlite } from "millrace/sqlite"
import type { Fixture } from "millrace/testing"
import { conformance } from "../conformance.ts"

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

afterAll(() => rmSync(folder, { recursive: true, force: true }))

conformance("sqlite", fixture)
