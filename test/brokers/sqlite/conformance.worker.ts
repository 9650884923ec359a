/** The other process of the conformance suite on SQLite. */
import { Sqlite } from "millrace/sqlite"
import { conformanceWorker } from "millrace/testing"

conformanceWorker(Sqlite.layer({ filename: process.env.MILLRACE_SQLITE ?? "" }))
