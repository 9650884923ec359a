/**
 * Events, subscribers and dead letters over HTTP: requests to calls, and what comes of them to responses.
 */
import { DateTime, Effect, Layer, Option, Schema, Stream } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { DeadLetters } from "millrace"
import { bodyAs, idInPath, limitInQuery, refuse, unavailable } from "../shared/http.ts"
import { Delivery } from "./Delivery.ts"
import { NewEvent, takeEvent } from "./events.ts"
import { NewSubscriber, Subscribers } from "./Subscribers.ts"

const json = (body: unknown, status = 200) => HttpServerResponse.jsonUnsafe(body, { status })
const orUnavailable = Effect.catchTags({ SqlError: unavailable, BrokerError: unavailable })

const postEvent = HttpRouter.add(
  "POST",
  "/events",
  bodyAs(NewEvent, "an event").pipe(
    Effect.flatMap(takeEvent),
    Effect.map((taken) => json(taken, 202)),
    Effect.catchTag("PublishIncomplete", ({ failed: [first] }) =>
      first === undefined ? Effect.succeed(refuse(503, "Try again later.")) : unavailable(first.error)
    ),
    orUnavailable
  )
)

const postSubscriber = HttpRouter.add(
  "POST",
  "/subscribers",
  Effect.gen(function* () {
    const { add } = yield* Subscribers
    // The secret is shown here, and never again.
    return json(yield* add(yield* bodyAs(NewSubscriber, "a subscriber")), 201)
  }).pipe(orUnavailable)
)

const getSubscribers = HttpRouter.add(
  "GET",
  "/subscribers",
  Effect.gen(function* () {
    const { list } = yield* Subscribers
    return json((yield* list).map(({ secret: _, ...subscriber }) => subscriber))
  }).pipe(orUnavailable)
)

const noSubscriber = (id: string) => refuse(404, `There is no subscriber ${id}.`)

/** The id in the path. Fails with the answer where nobody has it. */
const subscriberInPath = Effect.gen(function* () {
  const id = yield* idInPath
  const { find } = yield* Subscribers
  return Option.isSome(yield* find(id)) ? id : yield* Effect.fail(noSubscriber(id))
})

const deleteSubscriber = HttpRouter.add(
  "DELETE",
  "/subscribers/:id",
  Effect.gen(function* () {
    const id = yield* idInPath
    const { remove } = yield* Subscribers
    if (!(yield* remove(id))) return noSubscriber(id)
    yield* DeadLetters.purge(Delivery, { where: ({ key }) => key === id })
    return HttpServerResponse.empty({ status: 204 })
  }).pipe(orUnavailable)
)

const iso = (millis: number) => DateTime.formatIso(DateTime.makeUnsafe(millis))

const shown = ({ attempts, cause, diedAt, id, reason, replays, value }: DeadLetters.DeadLetter<Delivery>) => ({
  id,
  reason,
  cause,
  diedAt: iso(diedAt),
  replays,
  attempts: attempts.map(({ at, attempt, message }) => ({ attempt, at: iso(at), message })),
  ...(value._tag === "Success" ? { event: value.success.event } : {})
})

const getDeadLetters = HttpRouter.add(
  "GET",
  "/subscribers/:id/dead-letters",
  Effect.gen(function* () {
    const subscriber = yield* subscriberInPath
    const limit = yield* limitInQuery
    const letters = DeadLetters.list(Delivery, { where: ({ key }) => key === subscriber, limit })
    return json((yield* Stream.runCollect(letters)).map(shown))
  }).pipe(orUnavailable)
)

/** All that is left out means: all. */
const Replay = Schema.Struct({
  ids: Schema.optionalKey(Schema.Array(Schema.String)),
  limit: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThan(0))),
  dryRun: Schema.optionalKey(Schema.Boolean)
})

const replayDeadLetters = HttpRouter.add(
  "POST",
  "/subscribers/:id/dead-letters/replay",
  Effect.gen(function* () {
    const subscriber = yield* subscriberInPath
    const which = yield* bodyAs(Replay, "a choice of dead letters")
    return json(yield* DeadLetters.replay(Delivery, { ...which, where: ({ key }) => key === subscriber }))
  }).pipe(orUnavailable)
)

export const routes = Layer.mergeAll(
  postEvent,
  postSubscriber,
  getSubscribers,
  deleteSubscriber,
  getDeadLetters,
  replayDeadLetters
)
