/**
 * Bounded in-process work: a finite backlog, a fixed number of slots, and one recorded outcome for every accepted task.
 *
 * **When to use**
 *
 * Use a pool for work that must be limited, queued, awaited and drained. Use `Background` for short work that
 * nobody waits for. What a pool holds is lost when the process dies; work that must survive belongs to a broker.
 *
 * **Details**
 *
 * - Three verbs say who hears of a failure: `run` (the caller waits), `submit` (a handle), `fork` (nobody waits, so the work
 *   cannot fail or `onFailure` is given).
 * - Admission is not completion: `submit` returns when the task is accepted.
 * - `concurrency` is the number of slots, `capacity` the number of tasks that may wait. Both are finite.
 * - Each task runs on a fiber of its own, with a `Scope` of its own, in the context of its submitter. A task that dies or
 *   interrupts itself gives its slot back like any other.
 * - A cancelled or timed-out task keeps its slot until its finalizers have ended.
 * - Closing the scope drains the pool until a deadline, interrupts, and gives up what will not stop; the `ShutdownReport`
 *   says which.
 *
 * **Gotchas**
 *
 * - A task with nothing to wait for starts inside `submit`, before it returns.
 * - A task that is a single `Effect.sync` or a success already needs no fiber: started inside `submit` and without options,
 *   it runs on its submitter's. Only `Fiber.getCurrent()` inside its function tells; that fiber has the same services,
 *   references and span, but the submitter's scope. With several steps a task always has its own.
 * - Work that never gives the JavaScript thread back (`while (true) {}`) stops the whole process, and no pool can help it.
 *
 * **Example** (Running work through a pool)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { WorkerPool } from "millrace"
 *
 * const program = Effect.gen(function*() {
 *   const pool = yield* WorkerPool.make({ name: "squares", concurrency: 2, capacity: 100 })
 *   const handle = yield* pool.submit(Effect.sync(() => 6 * 6))
 *   const seven = yield* pool.run(Effect.sync(() => 7 * 7))
 *   return [yield* handle.await, seven]
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => [36, 49]
 * ```
 *
 * **Example** (Refusing work when the backlog is full)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { WorkerPool } from "millrace"
 *
 * const program = Effect.gen(function*() {
 *   const pool = yield* WorkerPool.make({ name: "resize", concurrency: 1, capacity: 1, onFull: "reject" })
 *   yield* pool.submit(Effect.sleep("10 millis"))
 *   yield* pool.submit(Effect.sleep("10 millis"))
 *   return yield* pool.submit(Effect.sleep("10 millis")).pipe(
 *     Effect.as("accepted"),
 *     Effect.catchTag("PoolFull", (full) => Effect.succeed(`full at ${full.capacity}`))
 *   )
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => "full at 1"
 * ```
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Layer from "effect/Layer"
import type * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Registry } from "../registry/Registry.ts"
import type { Accounting } from "./Accounting.ts"
import { toMillis } from "./Durations.ts"
import { calledFrom, callSite } from "./internal/CallSite.ts"
import { Engine } from "./internal/Engine.ts"
import { extras } from "./internal/Extras.ts"
import { Mapping, windowOf } from "./internal/Mapping.ts"
import type { OnDeadlock, OnFull, OnKeyFailure } from "./internal/Settings.ts"
import * as Settings from "./internal/Settings.ts"
import type { AnyEffect } from "./internal/Task.ts"
import { Fork, Run, Submit } from "./internal/Verb.ts"
import type { EndedBy, EndedByKey, PoolClosed, RefusedBy, TaskExpired, TaskTimedOut } from "./PoolError.ts"
import { InvalidOption } from "./PoolError.ts"
import type { ShutdownReport } from "./ShutdownReport.ts"
import type { TaskHandle } from "./TaskHandle.ts"

export type { Accounting, Outcome } from "./Accounting.ts"
export { isBalanced } from "./Accounting.ts"
export type { OnDeadlock, OnFull, OnKeyFailure } from "./internal/Settings.ts"
export {
  InvalidOption,
  KeyStopped,
  PoolClosed,
  PoolDeadlock,
  PoolFull,
  TaskDropped,
  TaskExpired,
  TaskTimedOut
} from "./PoolError.ts"
export type { ShutdownReport, UnfinishedTask } from "./ShutdownReport.ts"
export { format as formatReport, isClean } from "./ShutdownReport.ts"
export type { TaskHandle } from "./TaskHandle.ts"

/** A duration that may be left out. */
type Span = Duration.Input | undefined

/** An option that was given adds its error to the type; the literal `undefined` means that it was not. */
type Given<T, Err> = [T] extends [undefined] ? never : Err

/**
 * What `submit` itself may fail with, by the policy `P`. `PoolClosed` stands apart, so that code which is generic over the
 * policy can catch it.
 */
export type Refused<P extends OnFull> = PoolClosed | RefusedBy[P]

/** What the pool may end an accepted task with, by its policies (`P`, `K`) and the task's `timeout` (`T`) and `expiresIn` (`X`). */
export type Ended<P extends OnFull, K extends OnKeyFailure, T, X> =
  | PoolClosed
  | EndedBy[P]
  | EndedByKey[K]
  | Given<T, TaskTimedOut>
  | Given<X, TaskExpired>

/** Options of one task, whatever becomes of its result. */
export interface TaskOptions<out T extends Span = Span, out X extends Span = Span> {
  /** Shown in reports, dumps and errors. Default: the pool's name and a number. */
  readonly name?: string | undefined
  /** Tasks with one key run one at a time, in the order in which they were accepted; different keys run in parallel. */
  readonly key?: string | undefined
  /** Higher first; first in first out within one. Any finite number. Default 0. */
  readonly priority?: number | undefined
  /** Slots that it takes while it runs: a whole number from 1. One heavier than the pool runs alone. Default 1. */
  readonly weight?: number | undefined
  /**
   * Longest run, from its start and over all retries. It is then interrupted, keeps its slot until its finalizers have
   * ended, and fails with `TaskTimedOut`, even if it succeeds on the way out.
   */
  readonly timeout?: T
  /** Longest wait in the backlog, from its acceptance. It is then discarded and fails with `TaskExpired`. */
  readonly expiresIn?: X
}

/** Options of `submit` and `run`. */
export interface SubmitOptions<in E, out T extends Span = Span, out X extends Span = Span> extends TaskOptions<T, X> {
  /** Runs the work again when it fails, by this schedule. The slot stays taken meanwhile. */
  readonly retry?: Schedule.Schedule<unknown, E> | undefined
}

/**
 * A bounded pool of workers. `P` is what it does when the backlog is full, `K` what it does when a task of a key fails; both
 * decide which errors the types have.
 */
export interface WorkerPool<out P extends OnFull = "suspend", out K extends OnKeyFailure = "continue"> {
  readonly name: string

  /**
   * Accepts the work and returns its handle. Interrupted while it waits for a place, the work was never accepted.
   *
   * Fails with `PoolClosed` once a shutdown has begun, and with `PoolFull` where `onFull` is `reject`. The handle fails as
   * the work does, and with what the pool may end it with.
   */
  readonly submit: <A, E, R, T extends Span = undefined, X extends Span = undefined>(
    effect: Effect.Effect<A, E, R>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => Effect.Effect<TaskHandle<A, E | Ended<P, K, T, X>>, Refused<P>, Exclude<R, Scope.Scope>>

  /**
   * Accepts the work and waits for its result. Interrupting the caller cancels the task, wherever it is, and waits until its
   * finalizers have ended.
   */
  readonly run: <A, E, R, T extends Span = undefined, X extends Span = undefined>(
    effect: Effect.Effect<A, E, R>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => Effect.Effect<A, E | Refused<P> | Ended<P, K, T, X>, Exclude<R, Scope.Scope>>

  /**
   * Accepts work that nobody waits for. It cannot fail, or `onFailure` hears of it: also of what the pool dropped, expired
   * or abandoned. `onFailure` runs in the task's slot; should it die, that is reported as a defect.
   *
   * To tell the failures apart, let the cause fail again and catch what you know; what remains a defect is reported:
   * `onFailure: (cause) => Effect.failCause(cause).pipe(Effect.catchTags({ … }))`.
   */
  readonly fork: {
    <A, R, R2 = never, T extends Span = undefined, X extends Span = undefined>(
      effect: Effect.Effect<A, never, R>,
      options?: TaskOptions<T, X> & {
        readonly onFailure?: (cause: Cause.Cause<Ended<P, K, T, X>>) => Effect.Effect<unknown, never, R2>
      }
    ): Effect.Effect<void, Refused<P>, Exclude<R | R2, Scope.Scope>>
    <A, E, R, R2 = never, T extends Span = undefined, X extends Span = undefined>(
      effect: Effect.Effect<A, E, R>,
      options: TaskOptions<T, X> & {
        readonly onFailure: (cause: Cause.Cause<E | Ended<P, K, T, X>>) => Effect.Effect<unknown, never, R2>
      }
    ): Effect.Effect<void, Refused<P>, Exclude<R | R2, Scope.Scope>>
  }

  /**
   * Submits all of them in order and returns their handles. Under `reject` the backlog takes all or none; under `suspend` it
   * waits for places, and an interruption meanwhile cancels those that were accepted.
   */
  readonly submitAll: <A, E, R, T extends Span = undefined, X extends Span = undefined>(
    effects: Iterable<Effect.Effect<A, E, R>>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => Effect.Effect<ReadonlyArray<TaskHandle<A, E | Ended<P, K, T, X>>>, Refused<P>, Exclude<R, Scope.Scope>>

  /**
   * Runs `f` over the items through the pool and returns the results in the order of the items. The first failure cancels
   * the rest. It takes the items as it goes: at most twice `concurrency` of them are in the pool at a time.
   */
  readonly map: <I, A, E, R, T extends Span = undefined, X extends Span = undefined>(
    items: Iterable<I>,
    f: (item: I, index: number) => Effect.Effect<A, E, R>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => Effect.Effect<Array<A>, E | Refused<P> | Ended<P, K, T, X>, Exclude<R, Scope.Scope>>

  /**
   * The same for a stream, to be piped: `files.pipe(pool.mapStream(hash))`. Results keep the order of the stream.
   *
   * Do not run it inside a task of the same pool: it waits in fibers of its own, in which a deadlock is not found. `map` does
   * not.
   *
   * Like `run` and `map` it cancels its tasks when it is interrupted. Where an interruption shall let them end (Ctrl-C that
   * drains), `fork` the work from the stream and `awaitIdle`.
   */
  readonly mapStream: <I, A, E, R, T extends Span = undefined, X extends Span = undefined>(
    f: (item: I) => Effect.Effect<A, E, R>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => <E2, R2>(
    stream: Stream.Stream<I, E2, R2>
  ) => Stream.Stream<A, E | E2 | Refused<P> | Ended<P, K, T, X>, Exclude<R, Scope.Scope> | R2>

  /** Where every task has gone, at this instant. */
  readonly accounting: Effect.Effect<Accounting>
  /** Waits until nothing is queued or runs. Admission stays open. */
  readonly awaitIdle: Effect.Effect<void>
  /** Starts no more tasks until `resume`. Admission, expiry and cancellation go on. */
  readonly pause: Effect.Effect<void>
  readonly resume: Effect.Effect<void>
  /** Changes the number of slots. With fewer, running tasks go on and free slots are not filled until there are few enough. */
  readonly resize: (concurrency: number) => Effect.Effect<void>
  /** Lets the tasks of a parked or stopped key go on. */
  readonly resumeKey: (key: string) => Effect.Effect<void>
  /** The keys that a failure has parked or stopped. */
  readonly haltedKeys: Effect.Effect<ReadonlyArray<{ readonly key: string; readonly condition: "parked" | "stopped" }>>
  /** Closes admission and runs everything that was accepted, however long that takes. */
  readonly drain: Effect.Effect<ShutdownReport>
  /**
   * Closes admission, drains until the deadline, interrupts what still runs, and gives up what has not stopped after the
   * pool's `shutdownGrace`. Called again, it returns the same report; the earlier deadline wins. A deadline of zero or in the
   * past interrupts at once. Default: the pool's `shutdownDeadline`.
   */
  readonly shutdown: (options?: { readonly deadline?: Duration.Input | undefined }) => Effect.Effect<ShutdownReport>
}

/** Options of a pool. A wrong one is a defect (`InvalidOption`) that says what is allowed. */
export interface Options<out P extends OnFull = OnFull, out K extends OnKeyFailure = OnKeyFailure> {
  /** Number of slots: tasks that run at the same time. A whole number from 1. */
  readonly concurrency: number
  /** Number of tasks that may wait for a slot. 0 hands over to an idle slot only. Default 1024. */
  readonly capacity?: number | undefined
  /**
   * What a full backlog does to a new task. `suspend` (default): the producer waits. `reject`: `PoolFull`. `dropNewest`:
   * the new task is accepted and dropped. `dropOldest`: the oldest task of the lowest priority is dropped in its favour.
   */
  readonly onFull?: P | undefined
  /** Number of tasks of one key that may wait, so that one key cannot fill the backlog. Default: no limit but `capacity`. */
  readonly capacityPerKey?: number | undefined
  /**
   * What a failed task does to those of its key behind it. `continue` (default): nothing. `park`: they wait for `resumeKey`.
   * `stop`: they are dropped with `KeyStopped`, and so is what comes later, until `resumeKey`.
   */
  readonly onKeyFailure?: K | undefined
  /**
   * What happens when a task waits for something that waits for it. `die` (default): it dies with a `PoolDeadlock` that names
   * every edge. `inline`: what it waits for starts at once, out of turn. `lend`: the pool has one more slot while it waits,
   * or as many as what it waits for weighs.
   */
  readonly onDeadlock?: OnDeadlock | undefined
  /** At most `limit` starts per `interval`, as a token bucket: an idle pool may start `limit` tasks at once. */
  readonly rateLimit?: { readonly limit: number; readonly interval: Duration.Input } | undefined
  /** How long a shutdown lets accepted work end by itself. Default 30 seconds. */
  readonly shutdownDeadline?: Duration.Input | undefined
  /** How long interrupted work may take to end before it is abandoned. Default 5 seconds. */
  readonly shutdownGrace?: Duration.Input | undefined
  /** Is handed the report when the pool has closed; waited for no longer than `shutdownGrace`. */
  readonly onShutdown?: ((report: ShutdownReport) => Effect.Effect<unknown>) | undefined
}

/** A pool around an engine. The engine is untyped; what the signatures here promise is what it does. */
const fromEngine = <P extends OnFull, K extends OnKeyFailure>(engine: Engine): WorkerPool<P, K> => {
  const { settings } = engine
  type AnyOptions = SubmitOptions<never> & { readonly onFailure?: (cause: Cause.Cause<never>) => unknown }

  /** The requirements are met by the submitter's context, with which the task runs; a schedule takes the effect's own error. */
  const workOf = (effect: Effect.Effect<unknown, unknown, unknown>, options: AnyOptions | undefined): AnyEffect =>
    (options?.retry === undefined
      ? effect
      : Effect.retry(effect, options.retry as Schedule.Schedule<unknown, unknown>)) as AnyEffect

  const run = ((effect: Effect.Effect<unknown, unknown, unknown>, options?: AnyOptions) =>
    new Run(engine, workOf(effect, options), options)) as WorkerPool<P, K>["run"]
  const pool: WorkerPool<P, K> = {
    name: engine.name,
    submit: ((effect: Effect.Effect<unknown, unknown, unknown>, options?: AnyOptions) =>
      new Submit(engine, workOf(effect, options), options)) as WorkerPool<P, K>["submit"],
    run,
    fork: ((effect: Effect.Effect<unknown, unknown, unknown>, options?: AnyOptions) =>
      new Fork(engine, workOf(effect, options), options)) as WorkerPool<P, K>["fork"],
    submitAll: ((effects: Iterable<Effect.Effect<unknown, unknown, unknown>>, options?: AnyOptions) => {
      const site = callSite()
      return Effect.withFiber((fiber) =>
        engine.submitAll(
          fiber,
          Array.from(effects, (effect) => workOf(effect, options)),
          () => extras(engine, "submitAll", options, site)
        )
      )
    }) as WorkerPool<P, K>["submitAll"],
    map: ((
      items: Iterable<unknown>,
      f: (item: unknown, index: number) => Effect.Effect<unknown, unknown, unknown>,
      options?: AnyOptions
    ) => {
      const site = callSite()
      const work = function* () {
        let index = 0
        for (const item of items) {
          const at = index++
          yield workOf(
            Effect.suspend(() => f(item, at)),
            options
          )
        }
      }
      return Effect.withFiber(
        (fiber) => new Mapping(engine, fiber, work(), () => extras(engine, "map", options, site)).await
      )
    }) as WorkerPool<P, K>["map"],
    mapStream: (f, options) => {
      const site = callSite()
      return (stream) =>
        Stream.mapEffect(
          stream,
          (item) =>
            calledFrom(site, () =>
              run(
                Effect.suspend(() => f(item)),
                options
              )
            ),
          {
            concurrency: windowOf(engine)
          }
        )
    },
    accounting: Effect.sync(() => engine.accounting()),
    awaitIdle: Effect.withFiber((fiber) => engine.awaitIdle(fiber)),
    pause: Effect.sync(() => engine.slots.pause()),
    resume: Effect.sync(() => engine.slots.resume()),
    resize: (concurrency) =>
      Number.isInteger(concurrency) && concurrency >= 1
        ? Effect.sync(() => engine.slots.resize(concurrency))
        : Effect.die(
            new InvalidOption({
              operation: "WorkerPool.resize",
              problem: `concurrency must be a whole number of at least 1, got ${format(concurrency)}; use pause to start nothing`
            })
          ),
    resumeKey: (key) => Effect.sync(() => engine.admission.resumeKey(key)),
    haltedKeys: Effect.sync(() => [...engine.admission.keys.halted()].map(([key, condition]) => ({ key, condition }))),
    drain: Effect.withFiber((fiber) => engine.shutdown.run(fiber, "drain", Number.POSITIVE_INFINITY)),
    shutdown: (options) => {
      const deadline = options?.deadline === undefined ? settings.shutdownDeadline : toMillis(options.deadline)
      return deadline === undefined
        ? Effect.die(
            new InvalidOption({
              operation: "WorkerPool.shutdown",
              problem: `deadline must be a duration, such as "30 seconds"; got ${format(options?.deadline)}`
            })
          )
        : Effect.withFiber((fiber) => engine.shutdown.run(fiber, "shutdown", deadline))
    }
  }
  return pool
}

/** @internal Opens an engine in the scope: entered in the registry, and shut down when the scope closes. */
export const open = <P extends OnFull, K extends OnKeyFailure>(
  kind: string,
  operation: string,
  options: Settings.Unchecked
): Effect.Effect<WorkerPool<P, K>, never, Scope.Scope> =>
  Effect.flatMap(Settings.check(operation, options), (settings) =>
    Effect.map(
      Effect.acquireRelease(
        Effect.withFiber((fiber) =>
          Effect.sync(() => new Engine(kind, settings, fiber, fiber.getRef(Clock.Clock), fiber.getRef(Registry)))
        ),
        (engine) => engine.shutdown.close(settings.shutdownDeadline)
      ),
      (engine) => fromEngine<P, K>(engine)
    )
  )

/**
 * Opens a pool that closes with the scope: it drains until `shutdownDeadline`, and the report is logged (as a warning when
 * anything could not end by itself, else at debug level), given to `onShutdown` and to the registry.
 *
 * **When to use**
 *
 * Use it where the pool belongs to one part of the program. Use {@link Service} for a pool that is a part of the app.
 *
 * **Details**
 *
 * Two pools may have the same name; reports and dumps then show it twice. A wrong option is a defect, `InvalidOption`.
 */
export const make = <const P extends OnFull = "suspend", const K extends OnKeyFailure = "continue">(
  options: Options<P, K> & { readonly name: string }
): Effect.Effect<WorkerPool<P, K>, never, Scope.Scope> => open("WorkerPool", "WorkerPool.make", options)

/** What {@link Service} returns: a service whose value is a pool, with a layer and the pool's verbs. */
export interface ServiceClass<
  in out Self,
  in out Id extends string,
  in out P extends OnFull,
  in out K extends OnKeyFailure
> extends Context.ServiceClass<Self, Id, WorkerPool<P, K>> {
  /** Opens the pool with the options of the class. */
  readonly layer: Layer.Layer<Self>
  /** Opens it with some options replaced, such as a smaller pool for tests. Policies stay: they are in the types. */
  readonly layerWith: (options: Omit<Partial<Options<P, K>>, "onFull" | "onKeyFailure">) => Layer.Layer<Self>
  readonly submit: <A, E, R, T extends Span = undefined, X extends Span = undefined>(
    effect: Effect.Effect<A, E, R>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => Effect.Effect<TaskHandle<A, E | Ended<P, K, T, X>>, Refused<P>, Exclude<R, Scope.Scope> | Self>
  readonly run: <A, E, R, T extends Span = undefined, X extends Span = undefined>(
    effect: Effect.Effect<A, E, R>,
    options?: SubmitOptions<NoInfer<E>, T, X>
  ) => Effect.Effect<A, E | Refused<P> | Ended<P, K, T, X>, Exclude<R, Scope.Scope> | Self>
  readonly fork: {
    <A, R, R2 = never, T extends Span = undefined, X extends Span = undefined>(
      effect: Effect.Effect<A, never, R>,
      options?: TaskOptions<T, X> & {
        readonly onFailure?: (cause: Cause.Cause<Ended<P, K, T, X>>) => Effect.Effect<unknown, never, R2>
      }
    ): Effect.Effect<void, Refused<P>, Exclude<R | R2, Scope.Scope> | Self>
    <A, E, R, R2 = never, T extends Span = undefined, X extends Span = undefined>(
      effect: Effect.Effect<A, E, R>,
      options: TaskOptions<T, X> & {
        readonly onFailure: (cause: Cause.Cause<E | Ended<P, K, T, X>>) => Effect.Effect<unknown, never, R2>
      }
    ): Effect.Effect<void, Refused<P>, Exclude<R | R2, Scope.Scope> | Self>
  }
}

/**
 * Declares a pool as a service of the app.
 *
 * **Example** (A pool as a service)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { WorkerPool } from "millrace"
 *
 * class Thumbnails extends WorkerPool.Service<Thumbnails>()("Thumbnails", { concurrency: 8, onFull: "reject" }) {}
 *
 * const resize = (width: number) => Effect.succeed(`${width} pixels`)
 * const program = Thumbnails.run(resize(640))
 *
 * await Effect.runPromise(Effect.provide(program, Thumbnails.layer)) // => "640 pixels"
 * ```
 */
export const Service =
  <Self>() =>
  <const Id extends string, const P extends OnFull = "suspend", const K extends OnKeyFailure = "continue">(
    id: Id,
    options: Options<P, K>
  ): ServiceClass<Self, Id, P, K> => {
    const key = Context.Service<Self, WorkerPool<P, K>>()(id)
    const layerWith = (changes: Partial<Options<P, K>>) =>
      Layer.effect(key, make<P, K>({ name: id, ...options, ...changes }))
    /** Calls the pool in the context, from where the program called this. */
    const call = <A, E, R>(verb: (pool: WorkerPool<P, K>) => Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Self> => {
      const site = callSite()
      return key.use((pool) => calledFrom(site, () => verb(pool)))
    }
    const verbs: Pick<ServiceClass<Self, Id, P, K>, "submit" | "run"> = {
      submit: (effect, options) => call((pool) => pool.submit(effect, options)),
      run: (effect, options) => call((pool) => pool.run(effect, options))
    }
    // One implementation for both signatures, which have checked that what can fail has its `onFailure`.
    const fork = ((effect: Effect.Effect<unknown>, options?: TaskOptions) =>
      call((pool) => pool.fork(effect, options))) as ServiceClass<Self, Id, P, K>["fork"]
    return Object.assign(key, { layer: layerWith({}), layerWith, ...verbs, fork })
  }
