/** What `Effect.uninterruptibleMask` hands over: makes a part of it interruptible again, where the whole was. */
import type * as Effect from "effect/Effect"

export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
