/**
 * One run of a handler: decoded, within its timeout, in a scope and (where somebody traces) a span of its own.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import type { RawMessage } from "../Driver.ts"
import type { Envelope } from "../Envelope.ts"
import type { Undecodable, UnknownVersion } from "../TopicError.ts"
import { isTraced, spanOf } from "./trace.ts"
import type { Attempt } from "./Verdict.ts"

/** What a consumer runs for each message. The requirements are met by the context in which the consumer was made. */
export interface Work {
  readonly topic: string
  readonly group: string
  readonly decode: (message: RawMessage) => Effect.Effect<unknown, Undecodable | UnknownVersion>
  readonly handle: (value: unknown, envelope: Envelope) => Effect.Effect<unknown, unknown, Scope.Scope>
}

const timedOut: Attempt = { _tag: "TimedOut" }
const handled = (exit: Exit.Exit<unknown, unknown>): Attempt => ({ _tag: "Handled", exit })

/**
 * Ends with what happened; fails only where it is interrupted from outside. `onHandler` hears of the fiber that the handler
 * runs in where that is another: the cause of an interruption does not pass from fiber to fiber.
 */
export const attempt = (
  work: Work,
  message: RawMessage,
  envelope: Envelope,
  timeout: number | undefined,
  onHandler: (fiber: Fiber.Fiber<unknown, unknown>) => void
): Effect.Effect<Attempt> =>
  Effect.matchCauseEffect(work.decode(message), {
    onFailure: (cause) => {
      const failed = cause.reasons.find((reason) => reason._tag === "Fail")
      // A schema of the program that dies is a defect of this message.
      return Effect.succeed(
        failed === undefined ? handled(Exit.failCause(cause)) : { _tag: "NotDecoded", error: failed.error }
      )
    },
    onSuccess: (value) => {
      // In a suspend, since a handler may throw before it answers an effect.
      const run = Effect.map(Effect.exit(Effect.scoped(Effect.suspend(() => work.handle(value, envelope)))), handled)
      const timed =
        timeout === undefined
          ? run
          : Effect.timeoutOrElse(inOwnFiber(run, onHandler), {
              duration: timeout,
              orElse: () => Effect.succeed(timedOut)
            })
      return Effect.withFiber((fiber) => (isTraced(fiber) ? inSpan(work, envelope, timed) : timed))
    }
  })

/** Tells of the fiber that it runs in. */
export const inOwnFiber = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  onHandler: (fiber: Fiber.Fiber<unknown, unknown>) => void
): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    onHandler(fiber)
    return effect
  })

/** Linked to the publisher's span, as the OpenTelemetry conventions for messaging ask for. */
export const inSpan = <A, E, R>(
  { group, topic }: Pick<Work, "group" | "topic">,
  envelope: Envelope,
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, Exclude<R, never>> => {
  const span = spanOf(envelope.traceparent)
  return Effect.withSpan(effect, `process ${topic}`, {
    kind: "consumer",
    root: true,
    links: span === undefined ? [] : [{ span, attributes: {} }],
    attributes: {
      "messaging.operation.name": "process",
      "messaging.operation.type": "process",
      "messaging.destination.name": topic,
      "messaging.consumer.group.name": group,
      "messaging.message.id": envelope.id,
      "messaging.millrace.attempt": envelope.attempt
    }
  }) as Effect.Effect<A, E, Exclude<R, never>>
}
