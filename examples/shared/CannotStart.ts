/**
 * Why a service did not start, in a sentence for who started it.
 */
import type { Config, PlatformError } from "effect"
import { Runtime, Schema } from "effect"
import type { HttpServerError } from "effect/http"
import type { SqlError } from "effect/sql"
import type { Broker } from "millrace"
import { reasonsOf } from "./reasons.ts"

export type StartError =
  | Broker.BrokerError
  | Config.ConfigError
  | HttpServerError.ServeError
  | PlatformError.PlatformError
  | SqlError.SqlError

export class CannotStart extends Schema.TaggedError<CannotStart>()("CannotStart", { message: Schema.String }) {
  // `runService` prints the sentence; without this `runMain` would log the error and its stack after it.
  override readonly [Runtime.errorReported] = false

  static readonly from = (error: StartError): CannotStart =>
    new CannotStart({ message: `Cannot start: ${reasonOf(error)}` })
}

const reasonOf = (error: StartError): string => {
  switch (error._tag) {
    case "ConfigError":
      return Schema.isSchemaError(error.cause) ? reasonsOf(error.cause).join("; ") : error.message
    case "ServeError":
      return `${wordsOf(error.cause)}. Set PORT to another one, or to 0 for a free one.`
    case "PlatformError":
      return wordsOf(error.cause)
    default:
      return error.message
  }
}

/** Node's own words, such as "listen EADDRINUSE: address already in use 127.0.0.1:3000". */
const wordsOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))
