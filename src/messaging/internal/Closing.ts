/**
 * How a consumer closes. Nothing is acknowledged that was not handled, and nothing handled goes unsettled if time allows:
 *
 * 1. no more is taken · 2. what has not begun is given back · 3. what runs may end until the deadline, is then interrupted
 * and given back, and abandoned when it does not stop · 4. settlements are flushed · 5. the subscription closes.
 */
import * as Effect from "effect/Effect"
import type { ConsumerReport, DeliveryOutcome } from "../ConsumerReport.ts"
import { atMost } from "./atMost.ts"
import type { ConsumerEngine } from "./ConsumerEngine.ts"

/** The outcomes of handlers that came to an end. */
const decided: ReadonlySet<DeliveryOutcome> = new Set(["acknowledged", "retried", "deadLettered", "dropped"])

export const close = (
  engine: ConsumerEngine,
  deadline: number,
  parts: {
    /** Stops the intake; what it may have been handed meanwhile is given back by the end of the subscription. */
    readonly stopTaking: Effect.Effect<void>
    /** Ends the subscription and what watches it. */
    readonly unsubscribe: Effect.Effect<void>
  }
): Effect.Effect<ConsumerReport> =>
  Effect.gen(function* () {
    const { settings, work } = engine
    const { shutdownGrace } = settings
    const began = engine.now()
    const releasedBefore = engine.books.read().released
    engine.phase = "draining"
    // From now on nothing begins.
    const running = [...engine.held.values()].filter(({ state }) => state === "running")
    // A broker that does not answer must not hold up the rest.
    yield* Effect.all(
      [
        atMost(
          shutdownGrace,
          `Taking back the credit of consumer ${engine.name}`,
          Effect.suspend(() => engine.subscription.setCredit(0))
        ),
        atMost(shutdownGrace, `The last take of consumer ${engine.name}`, parts.stopTaking)
      ],
      { concurrency: 2 }
    )
    for (const held of [...engine.held.values()]) {
      if (held.state !== "queued") continue
      engine.giveBack(held)
      if (held.handle !== undefined) yield* held.handle.cancel
    }
    yield* engine.pool.shutdown({ deadline })
    // Some are in fibers that the pool does not know.
    for (const { fiber } of running) fiber?.interruptUnsafe()
    // All settlements answered, or as many as the time allows.
    yield* Effect.timeoutOption(engine.settler.idle.await, shutdownGrace)
    const abandoned = running.filter(({ state }) => state === "running")
    // Before the broker hears of it: what ends meanwhile has no say any more.
    for (const held of abandoned) engine.end(held, "unsettled", true)
    if (abandoned.length > 0) {
      const left = abandoned.map(({ delivery }) => ({ _tag: "Abandon", delivery }) as const)
      yield* atMost(
        shutdownGrace,
        `Abandoning ${left.length} messages of consumer ${engine.name}`,
        Effect.suspend(() => engine.subscription.settle(left))
      )
    }
    const unsettled = engine.settler.open.map(({ held }) => held)
    engine.phase = "closed"
    for (const held of unsettled) engine.end(held, "unsettled", true)
    yield* atMost(shutdownGrace, `The end of the subscription of consumer ${engine.name}`, parts.unsubscribe)
    const accounting = engine.books.read()
    return {
      topic: work.topic,
      group: work.group,
      drained: running.filter(({ outcome }) => outcome !== undefined && decided.has(outcome)).length,
      released: accounting.released - releasedBefore,
      abandoned: abandoned.map(({ envelope }) => envelope.id),
      unsettled: unsettled.map(({ envelope }) => envelope.id),
      elapsed: engine.now() - began,
      accounting
    }
  })
