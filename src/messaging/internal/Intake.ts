/**
 * Takes messages from the broker while there is room for them, and hands them to the pool.
 */
import * as Effect from "effect/Effect"
import type { ConsumerEngine } from "./ConsumerEngine.ts"
import type { Held } from "./Held.ts"

/** Takes for ever. `start` hands over what has come; interrupted, it leaves nothing half taken. */
export const intake = (
  engine: ConsumerEngine,
  start: (held: ReadonlyArray<Held>) => Effect.Effect<void>,
  onTaken: () => void
): Effect.Effect<never> => {
  const takeSome = Effect.suspend(() => {
    if (!engine.wantsMore) {
      engine.room.closeUnsafe()
      return engine.room.await
    }
    const take = ++engine.takes
    const bytes = engine.settings.prefetchBytes - engine.books.bytes
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(restore(engine.insist("take messages", () => taken(engine, bytes))), (deliveries) => {
        if (deliveries.length > 0) onTaken()
        const runnable = engine.admit(deliveries, take)
        engine.lanes.sweep(take)
        return runnable.length === 0 ? Effect.void : start(runnable)
      })
    )
  })
  return Effect.forever(takeSome)
}

/** One take, and whether it waits for its answer. */
const taken = (engine: ConsumerEngine, bytes: number) =>
  Effect.suspend(() => {
    engine.taking = true
    return Effect.ensuring(
      Effect.suspend(() => engine.subscription.take(engine.free, bytes)),
      Effect.sync(() => {
        engine.taking = false
      })
    )
  })

/** Hands each delivery to the pool by itself. */
export const startEach =
  (engine: ConsumerEngine) =>
  (held: ReadonlyArray<Held>): Effect.Effect<void> =>
    Effect.forEach(held, (one) => engine.start(one), { discard: true })
