/** What the types of the pool say, checked by the compiler: `npm run check` and test/types/types.test.ts. */
import type { Cause, Layer } from "effect"
import { Context, Effect, Schedule, Schema, type Scope, Stream } from "effect"
import { Background, WorkerPool } from "millrace"

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
/** Compiles only where the value has exactly the type `A`. */
const same =
  <A>() =>
  <B>(_: B & (Equal<A, B> extends true ? unknown : never)): void => {}

class BadImage extends Schema.TaggedError<BadImage>()("BadImage", {}) {}
class Disk extends Context.Service<Disk, { readonly read: Effect.Effect<string> }>()("Disk") {}
class Audit extends Context.Service<Audit, { readonly write: Effect.Effect<void> }>()("Audit") {}
declare const resize: (n: number) => Effect.Effect<string, BadImage, Disk>
declare const scoped: Effect.Effect<number, never, Scope.Scope | Disk>

type Closed = WorkerPool.PoolClosed
type Handle<E> = WorkerPool.TaskHandle<string, E>

export const program = Effect.gen(function* () {
  const suspend = yield* WorkerPool.make({ name: "a", concurrency: 8 })
  const reject = yield* WorkerPool.make({ name: "a", concurrency: 8, onFull: "reject" })
  const drop = yield* WorkerPool.make({ name: "a", concurrency: 8, onFull: "dropOldest" })
  const stop = yield* WorkerPool.make({ name: "a", concurrency: 8, onKeyFailure: "stop" })

  // Each error stands in the type only where the policy or the option can produce it.
  same<Effect.Effect<Handle<BadImage | Closed>, Closed, Disk>>()(suspend.submit(resize(1)))
  same<Effect.Effect<string, BadImage | Closed, Disk>>()(suspend.run(resize(1)))
  same<Effect.Effect<Handle<BadImage | Closed>, Closed | WorkerPool.PoolFull, Disk>>()(reject.submit(resize(1)))
  same<Effect.Effect<string, BadImage | Closed | WorkerPool.TaskDropped, Disk>>()(drop.run(resize(1)))
  same<Effect.Effect<string, BadImage | Closed | WorkerPool.KeyStopped, Disk>>()(stop.run(resize(1)))
  same<Effect.Effect<string, BadImage | Closed | WorkerPool.TaskTimedOut, Disk>>()(
    suspend.run(resize(1), { key: "k", timeout: "5 seconds" })
  )
  same<Effect.Effect<Handle<BadImage | Closed | WorkerPool.TaskTimedOut | WorkerPool.TaskExpired>, Closed, Disk>>()(
    suspend.submit(resize(1), { timeout: 5, expiresIn: "1 minute" })
  )
  same<Effect.Effect<string, BadImage | Closed, Disk>>()(resize(1).pipe(suspend.run))
  same<Effect.Effect<string, BadImage | Closed, Disk>>()(suspend.run(resize(1), { retry: Schedule.recurs(3) }))

  // A task has a scope of its own.
  same<Effect.Effect<number, Closed, Disk>>()(suspend.run(scoped))

  // map and mapStream have the errors of both sides.
  same<Effect.Effect<Array<string>, BadImage | Closed, Disk>>()(suspend.map([1, 2], (n) => resize(n)))
  same<Stream.Stream<string, BadImage | Closed | WorkerPool.PoolFull, Disk>>()(
    Stream.make(1, 2).pipe(reject.mapStream((n) => resize(n)))
  )
  same<Effect.Effect<ReadonlyArray<Handle<BadImage | Closed>>, Closed, Disk>>()(
    suspend.submitAll([resize(1), resize(2)])
  )

  // A pool with fewer errors can stand where more are expected, and not the other way round.
  const any: WorkerPool.WorkerPool<WorkerPool.OnFull, WorkerPool.OnKeyFailure> = suspend
  // @ts-expect-error a rejecting pool is not a suspending one
  const bad: WorkerPool.WorkerPool = reject
  // @ts-expect-error a pool that stops keys is not one that goes on
  const worse: WorkerPool.WorkerPool = stop

  // fork: what can fail has an onFailure.
  same<Effect.Effect<void, Closed>>()(suspend.fork(Effect.log("x")))
  same<Effect.Effect<void, Closed>>()(suspend.fork(Effect.log("x"), { name: "log", priority: 1 }))
  same<Effect.Effect<void, Closed, Disk | Audit>>()(
    suspend.fork(resize(1), { onFailure: (_: Cause.Cause<BadImage | Closed>) => Audit.use((audit) => audit.write) })
  )
  suspend.fork(resize(1), {
    expiresIn: "1 second",
    onFailure: (cause) => {
      same<Cause.Cause<BadImage | Closed | WorkerPool.TaskExpired>>()(cause)
      return Effect.logError(cause)
    }
  })
  drop.fork(Effect.void, {
    onFailure: (cause) => {
      same<Cause.Cause<Closed | WorkerPool.TaskDropped>>()(cause)
      return Effect.void
    }
  })
  // @ts-expect-error it can fail, and nobody hears
  suspend.fork(resize(1))
  // @ts-expect-error it can fail, and nobody hears
  suspend.fork(resize(1), { name: "r" })
  // @ts-expect-error onFailure cannot fail itself
  suspend.fork(resize(1), { onFailure: () => Effect.fail("again") })

  // @ts-expect-error a misspelt option
  suspend.submit(resize(1), { keey: "a" })
  // @ts-expect-error an unknown policy
  WorkerPool.make({ name: "a", concurrency: 1, onFull: "block" })
  // @ts-expect-error concurrency has no default
  WorkerPool.make({ name: "a" })
  // @ts-expect-error a schedule for another error
  suspend.run(resize(1), { retry: Schedule.recurs(1).pipe(Schedule.setInputType<number>()) })
  return [any, bad, worse] as const
})
// No value of it is needed: this file is compiled, not run.
same<Scope.Scope>()(null as unknown as Effect.Services<typeof program>)

export class Thumbnails extends WorkerPool.Service<Thumbnails>()("Thumbnails", { concurrency: 8, onFull: "reject" }) {}
same<Effect.Effect<string, BadImage | Closed | WorkerPool.PoolFull, Disk | Thumbnails>>()(Thumbnails.run(resize(1)))
same<Effect.Effect<string, BadImage | Closed | WorkerPool.PoolFull, Disk | Thumbnails>>()(
  Effect.flatMap(Thumbnails, (pool) => pool.run(resize(2)))
)
same<Layer.Layer<Thumbnails>>()(Thumbnails.layer)
same<Layer.Layer<Thumbnails>>()(Thumbnails.layerWith({ concurrency: 1 }))
// @ts-expect-error a layer cannot change what the types say
Thumbnails.layerWith({ onFull: "suspend" })

same<Effect.Effect<void, Closed, Background.Background>>()(Background.fork(Effect.log("x")))
same<Effect.Effect<void, Closed, Background.Background | Disk>>()(
  Background.fork(resize(1), { onFailure: (cause) => Effect.logWarning(cause) })
)
// @ts-expect-error it can fail, and nobody hears
Background.fork(resize(1))
// @ts-expect-error background work has no queue whose oldest could be dropped
Background.make({ onFull: "dropOldest" })
