/**
 * What failed for good, over HTTP: for a person to see, and to have done again once the cause is mended.
 */
import { DateTime, Effect, Layer, Result, Schema, Stream } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { DeadLetters } from "millrace"
import { bodyAs, limitInQuery, unavailable } from "../shared/http.ts"
import { NewOrder, type Order } from "./Order.ts"
import { OrderPlaced } from "./OrderPlaced.ts"

const iso = (millis: number) => DateTime.formatIso(DateTime.makeUnsafe(millis))

const shown = ({ attempts, cause, diedAt, group, id, reason, replays, value }: DeadLetters.DeadLetter<Order>) => ({
  id,
  group,
  reason,
  cause,
  diedAt: iso(diedAt),
  replays,
  attempts: attempts.map(({ at, attempt, message, tag }) => ({ attempt, at: iso(at), tag, message })),
  order: Result.getOrElse(value, (error) => error.message)
})

const getDeadLetters = HttpRouter.add(
  "GET",
  "/dead-letters",
  Effect.gen(function* () {
    const limit = yield* limitInQuery
    const letters = yield* Stream.runCollect(DeadLetters.list(OrderPlaced, { limit }))
    return HttpServerResponse.jsonUnsafe(letters.map(shown))
  }).pipe(Effect.catchTag("BrokerError", unavailable))
)

/** All that is left out means: all. A new `phone` takes the place of the one that did not work. */
const Replay = Schema.Struct({
  group: Schema.optionalKey(Schema.Literals(["sms", "stock"])),
  ids: Schema.optionalKey(Schema.Array(Schema.String)),
  limit: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThan(0))),
  dryRun: Schema.optionalKey(Schema.Boolean),
  phone: Schema.optionalKey(NewOrder.fields.phone)
})

const replayDeadLetters = HttpRouter.add(
  "POST",
  "/dead-letters/replay",
  Effect.gen(function* () {
    const { phone, ...which } = yield* bodyAs(Replay, "a choice of dead letters")
    const report = yield* DeadLetters.replay(OrderPlaced, {
      ...which,
      edit: ({ value }) => (phone === undefined || Result.isFailure(value) ? undefined : { ...value.success, phone })
    })
    return HttpServerResponse.jsonUnsafe(report)
  }).pipe(Effect.catchTag("BrokerError", unavailable))
)

export const deadLetterRoutes = Layer.mergeAll(getDeadLetters, replayDeadLetters)
