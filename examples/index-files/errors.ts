/**
 * What can go wrong: with one file, or with the run.
 */
import type { PlatformError } from "effect"
import { Runtime, Schema } from "effect"

/** A file or folder could not be read. The others go on. */
export class Unreadable extends Schema.TaggedError<Unreadable>()("Unreadable", {
  path: Schema.String,
  reason: Schema.String
}) {}

/** The run cannot begin or go on. The message is the sentence for the user. */
export class CannotRun extends Schema.TaggedError<CannotRun>()("CannotRun", { message: Schema.String }) {
  // `main.ts` prints the sentence; without this `runMain` would log the error and its stack after it.
  override readonly [Runtime.errorReported] = false
}

/** Node says "ENOENT: no such file or directory, open '/a/path'". Of that, what comes before the call and its path. */
export const reasonOf = (error: PlatformError.PlatformError): string =>
  (error.cause instanceof Error ? error.cause.message : error.message).replace(/, \w+( '.*)?$/s, "")
