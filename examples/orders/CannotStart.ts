/**
 * Why the service did not start, in a sentence for who started it.
 */
import type { Config, PlatformError } from "effect"
import { Runtime, Schema } from "effect"
import type { HttpServerError } from "effect/http"
import { reasonsOf } from "./reasons.ts"

type StartError = Config.ConfigError | HttpServerError.ServeError | PlatformError.PlatformError

export class CannotStart extends Schema.TaggedError<CannotStart>()("CannotStart", { message: Schema.String }) {
  // `main.ts` prints the sentence; without this `runMain` would log the error and its stack after it.
  override readonly [Runtime.errorReported] = false

  static readonly from = (error: StartError): CannotStart =>
    new CannotStart({ message: `Cannot start: ${reasonOf(error)}` })
}

const reasonOf = (error: StartError): string => {
  if (error._tag === "ConfigError") {
    return Schema.isSchemaError(error.cause) ? reasonsOf(error.cause).join("; ") : error.message
  }
  // Node's own words, such as "listen EADDRINUSE: address already in use 127.0.0.1:3000".
  const reason = error.cause instanceof Error ? error.cause.message : String(error.cause)
  return error._tag === "ServeError" ? `${reason}. Set PORT to another one, or to 0 for a free one.` : reason
}
