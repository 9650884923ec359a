/**
 * Where everything that runs work in this process reports what it runs.
 *
 * Pools (and, on the floors above, consumers and brokers) enter themselves when they open and leave when they have
 * closed. A reader asks an entry for its counts and its tasks; nothing is computed or stored until somebody asks.
 * {@link watch} tells the entries that somebody listens: from then on they stamp each task with the time it was accepted
 * and the place that submitted it, which costs about a microsecond a task.
 *
 * The registry is a `Context.Reference`: programs share one for the whole process, and a test gives itself its own.
 *
 * **Example** (Asking what runs)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Registry, WorkerPool } from "millrace"
 *
 * const program = Effect.gen(function*() {
 *   yield* WorkerPool.make({ name: "thumbnails", concurrency: 8 })
 *   const registry = yield* Registry.Registry
 *   return [...registry.entries].map((entry) => entry.name)
 * })
 *
 * const own = Effect.provideService(program, Registry.Registry, Registry.makeUnsafe())
 * await Effect.runPromise(Effect.scoped(own)) // => ["thumbnails"]
 * ```
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** Listeners of all registries of the process. */
let watchers = 0

/** Whether anybody watches any registry; asked where the registry in use is not known yet. */
export const isAnyWatched = (): boolean => watchers > 0

/** What one task is doing at the moment of asking. */
export interface TaskInfo {
  readonly id: string
  readonly name: string
  /**
   * `blocked`: its producer waits for a place in the backlog. `queued`: in the backlog. `running`: holds a slot.
   * `overrunning`: holds a slot although it was cancelled or timed out, because its finalizers have not ended.
   */
  readonly state: "blocked" | "queued" | "running" | "overrunning"
  readonly key: string | undefined
  /** Milliseconds since it was submitted; `undefined` where nothing watched the registry at that time. */
  readonly age: number | undefined
  /** What it waits for, in words; `undefined` where it waits for nothing that the registry knows of. */
  readonly waitsFor: string | undefined
  /** Where it was submitted, as `file:line:column`; `undefined` where nothing watched the registry at that time. */
  readonly site: string | undefined
}

/** Something that runs work: a pool, a background supervisor, a consumer. */
export interface Entry {
  readonly kind: string
  readonly name: string
  /** Numbers by name, in the order in which a person wants to read them. */
  readonly counts: () => ReadonlyArray<readonly [name: string, count: number]>
  readonly tasks: () => ReadonlyArray<TaskInfo>
  /** What else a person should know, such as "paused", each in a few words. */
  readonly notes: () => ReadonlyArray<string>
}

/** What happened to an entry, for those that {@link watch}. */
export type Event =
  | { readonly _tag: "Opened"; readonly entry: Entry }
  | { readonly _tag: "Closed"; readonly entry: Entry; readonly report: unknown }

/** The registry: entries to read, and the listeners that watch them. */
export interface Registry {
  readonly entries: ReadonlySet<Entry>
  /** True while somebody watches; entries then record times and submit sites. */
  readonly watched: boolean
  /** Adds an entry; its name need not be unique. */
  readonly open: (entry: Entry) => void
  /** Removes an entry and tells the listeners how it ended. */
  readonly close: (entry: Entry, report: unknown) => void
  /** Adds a listener; the returned function removes it. */
  readonly listen: (listener: (event: Event) => void) => () => void
}

/**
 * Makes a registry of its own, for a test or for a part of a program that should not be seen by the rest.
 */
export const makeUnsafe = (): Registry => {
  const entries = new Set<Entry>()
  const listeners = new Set<(event: Event) => void>()
  const tell = (event: Event) => {
    for (const listener of [...listeners]) {
      try {
        listener(event)
      } catch (error) {
        Effect.runFork(
          Effect.logError(`A listener of the registry threw at ${event._tag} of "${event.entry.name}"`, error)
        )
      }
    }
  }
  const registry: Registry & { watched: boolean } = {
    entries,
    // A plain field, since every submission reads it.
    watched: false,
    open(entry) {
      entries.add(entry)
      tell({ _tag: "Opened", entry })
    },
    close(entry, report) {
      if (entries.delete(entry)) tell({ _tag: "Closed", entry, report })
    },
    listen(listener) {
      listeners.add(listener)
      registry.watched = true
      watchers++
      return () => {
        if (!listeners.delete(listener)) return
        registry.watched = listeners.size > 0
        watchers--
      }
    }
  }
  return registry
}

/**
 * The registry in use. Without a service of its own a program uses the one of the process.
 */
export const Registry: Context.Reference<Registry> = Context.Reference<Registry>("millrace/Registry", {
  defaultValue: makeUnsafe
})

/** Keeps an entry in the registry until the scope closes: for what has no report, such as the connections of a broker. */
export const enter = (entry: Entry): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(Registry, (registry) =>
    Effect.acquireRelease(
      Effect.sync(() => registry.open(entry)),
      () => Effect.sync(() => registry.close(entry, undefined))
    )
  )

/**
 * Listens to the registry until the scope closes.
 *
 * **When to use**
 *
 * Use it before the work begins, wherever a dump should say how old a task is and where it was submitted.
 */
export const watch = (listener: (event: Event) => void = () => {}): Effect.Effect<void, never, Scope.Scope> =>
  Effect.flatMap(Registry, (registry) =>
    Effect.asVoid(
      Effect.acquireRelease(
        Effect.sync(() => registry.listen(listener)),
        (stop) => Effect.sync(stop)
      )
    )
  )
