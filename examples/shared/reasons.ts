/**
 * What a schema found wrong, for a person.
 */
import type { Schema } from "effect"
import { SchemaIssue } from "effect"

const issuesOf = SchemaIssue.makeFormatterStandardSchemaV1()

/** A line for each: where, and what was expected there. */
export const reasonsOf = (error: Schema.SchemaError): ReadonlyArray<string> =>
  issuesOf(error.issue).issues.map(({ message, path = [] }) =>
    path.length === 0 ? message : `${path.join(".")}: ${message}`
  )
