/**
 * What HTTP services need: a server, bodies that are what a schema says, and answers that a person can read.
 */
import { createServer } from "node:http"
import { NodeHttpServer } from "@effect/platform-node"
import { ByteSize, Effect, type Layer, Schema } from "effect"
import { HttpIncomingMessage, HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import type { SqlError } from "effect/sql"
import type { Broker } from "millrace"
import { reasonsOf } from "./reasons.ts"

/** A server for this machine alone. It answers what has begun before it closes. */
export const serverAt = (port: number) =>
  NodeHttpServer.layer(createServer, { host: "127.0.0.1", port, gracefulShutdownTimeout: "5 seconds" })

/** Serves the routes without a word in the log. */
export const serve = <A, E, R>(routes: Layer.Layer<A, E, R>) =>
  HttpRouter.serve(routes, { disableListenLog: true, disableLogger: true })

export const refuse = (status: number, error: string, headers?: Record<string, string>) =>
  HttpServerResponse.jsonUnsafe({ error }, { status, headers })

/** The body of a request. Fails with the answer to a wrong one. */
export const bodyAs = <A>(schema: Schema.ConstraintDecoder<A>, what: string) =>
  HttpServerRequest.schemaBodyJson(schema, { errors: "all" }).pipe(
    Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.kibibytes(64)),
    Effect.mapError((error) => {
      if (error._tag === "SchemaError") {
        const reasons = reasonsOf(error)
        return HttpServerResponse.jsonUnsafe({ error: `This is not ${what}.`, reasons }, { status: 400 })
      }
      const tooLarge = error.reason._tag === "RequestParseError" && error.reason.reason === "BodyTooLarge"
      return tooLarge ? refuse(413, "A request has at most 64 KiB.") : refuse(400, "The body is not JSON.")
    })
  )

/** The `id` in the path. */
export const idInPath = Effect.map(HttpRouter.schemaPathParams(Schema.Struct({ id: Schema.String })), ({ id }) => id)

const Limit = Schema.NumberFromString.check(Schema.isInt(), Schema.isGreaterThan(0))

/** The `limit` of a list, 100 where the query does not say. Fails with the answer to a wrong one. */
export const limitInQuery = HttpServerRequest.schemaSearchParams(
  Schema.Struct({ limit: Schema.optionalKey(Limit) })
).pipe(
  Effect.map(({ limit = 100 }) => limit),
  Effect.mapError((error) => refuse(400, reasonsOf(error).join("; ")))
)

/** A database or a broker that does not do what it should: the client may try again, and a person has to know. */
export const unavailable = (error: SqlError.SqlError | Broker.BrokerError) =>
  Effect.as(
    Effect.logError("A request could not be carried out", error),
    refuse(503, "This cannot be done at the moment. Try again later.", { "retry-after": "5" })
  )
