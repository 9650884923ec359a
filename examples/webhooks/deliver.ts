/**
 * One attempt to deliver an event to a subscriber.
 */
import { Clock, Effect, Option, Schema } from "effect"
import { HttpClient, HttpClientRequest } from "effect/http"
import type { Delivery } from "./Delivery.ts"
import { Settings } from "./Settings.ts"
import { Subscribers } from "./Subscribers.ts"
import { sign } from "./signature.ts"

/** There is no such subscriber any more. */
export class Unsubscribed extends Schema.TaggedError<Unsubscribed>()("Unsubscribed", {}) {}

/** It asks to come back later (429 or 503 with `retry-after`). */
export class TooBusy extends Schema.TaggedError<TooBusy>()("TooBusy", { seconds: Schema.Finite }) {
  override get message(): string {
    return `the subscriber is busy for ${this.seconds} s`
  }
}

/** It could not be reached, or did not answer with 2xx. */
export class NotDelivered extends Schema.TaggedError<NotDelivered>()("NotDelivered", { problem: Schema.String }) {
  override get message(): string {
    return this.problem
  }
}

/** As seconds; a date is not understood, and a day is the most that is granted. */
const retryAfter = (header: string | undefined): number | undefined =>
  header !== undefined && /^\d+$/.test(header) ? Math.min(Number(header), 24 * 60 * 60) : undefined

/** Node's own words, such as "connect ECONNREFUSED 127.0.0.1:9". */
const wordsOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

export const deliver = Effect.fnUntraced(function* (delivery: Delivery) {
  const { timeoutMillis } = yield* Settings
  const subscribers = yield* Subscribers
  const found = yield* subscribers.find(delivery.subscriber)
  if (Option.isNone(found)) return yield* new Unsubscribed()
  const subscriber = found.value
  // What the answer is made of does not matter: the connection ends with the scope, which is that of the message.
  const client = HttpClient.withScope(yield* HttpClient.HttpClient)
  const { body, event } = delivery
  const request = HttpClientRequest.post(subscriber.url).pipe(
    HttpClientRequest.setHeaders({ ...sign(subscriber.secret, event, yield* Clock.currentTimeMillis, body) }),
    HttpClientRequest.bodyText(body, "application/json")
  )
  const attempt = Effect.gen(function* () {
    const { headers, status } = yield* client
      .execute(request)
      .pipe(Effect.mapError(({ reason }) => new NotDelivered({ problem: `cannot reach it: ${wordsOf(reason.cause)}` })))
    if (status >= 200 && status < 300) return
    const seconds = retryAfter(headers["retry-after"])
    if ((status === 429 || status === 503) && seconds !== undefined) return yield* new TooBusy({ seconds })
    return yield* new NotDelivered({ problem: `it answered ${status}` })
  })
  yield* attempt.pipe(
    Effect.timeoutOrElse({
      duration: timeoutMillis,
      orElse: () => Effect.fail(new NotDelivered({ problem: `it did not answer within ${timeoutMillis} ms` }))
    }),
    Effect.tapError((error) => subscribers.setProblem(subscriber, error.message))
  )
  yield* subscribers.setProblem(subscriber, null)
})
