/**
 * An SMS gateway, as trying as real ones are. The last digit of the number says how:
 *
 *     9  rejected: nobody has this number (422)
 *     1  busy: asks to come back after a second, twice (503)
 *     2  sends, and then fails to say so: the first answer is 500
 *     3  takes a second
 *
 * All others are sent after `SMS_MILLIS`. Of two requests with one `idempotency-key`, only one is sent. Each SMS is a line of
 * JSON in `SMS_LOG`: what is not there was not sent, whatever anybody else believes.
 */
import { Config, DateTime, Effect, FileSystem, Schema } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { smsLog } from "../Settings.ts"

const Sms = Schema.Struct({ phone: Schema.NonEmptyString, text: Schema.String })
const Headers = Schema.Struct({ "idempotency-key": Schema.NonEmptyString })

const answer = (status: number, state: string, headers?: Record<string, string>) =>
  HttpServerResponse.jsonUnsafe({ state }, { status, headers })

/** The keys of a log from before this start. */
const keysOf = (log: string): ReadonlyArray<string> =>
  log.split("\n").flatMap((line) => /"key":"([^"]+)"/.exec(line)?.[1] ?? [])

export const gatewayRoutes = HttpRouter.use(
  Effect.fnUntraced(function* (router) {
    const fs = yield* FileSystem.FileSystem
    const logFile = yield* smsLog
    const usualMillis = yield* Config.Int("SMS_MILLIS").pipe(Config.withDefault(50))
    const log = yield* fs.open(logFile, { flag: "a+" })
    const sent = new Set(keysOf(yield* fs.readFileString(logFile)))
    const requests = new Map<string, number>()

    const write = (line: object) => log.writeAll(new TextEncoder().encode(`${JSON.stringify(line)}\n`))

    const handle = Effect.gen(function* () {
      const { "idempotency-key": key } = yield* HttpServerRequest.schemaHeaders(Headers)
      const { phone, text } = yield* HttpServerRequest.schemaBodyJson(Sms)
      const request = (requests.get(key) ?? 0) + 1
      requests.set(key, request)
      const kind = phone.at(-1)
      if (kind === "9") return answer(422, "nobody has this number")
      if (kind === "1" && request <= 2) return answer(503, "busy", { "retry-after": "1" })
      yield* Effect.sleep(kind === "3" ? 1000 : usualMillis)
      const at = DateTime.formatIso(yield* DateTime.now)
      if (sent.has(key)) {
        yield* write({ at, repeated: key })
        return answer(200, "sent before")
      }
      sent.add(key)
      yield* Effect.uninterruptible(write({ at, key, phone, text }))
      return kind === "2" && request === 1 ? answer(500, "unknown") : answer(200, "sent")
    })
    yield* router.add(
      "POST",
      "/sms",
      Effect.catchTag(handle, "SchemaError", (error) => Effect.succeed(answer(400, error.message)))
    )
  })
)
