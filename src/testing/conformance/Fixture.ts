/**
 * What a driver tells the conformance suite of itself, and what it gives it to work with.
 */
import type * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type { Ability, Broker } from "../../messaging/Broker.ts"

/** A driver as the suite sees it. */
export interface Fixture {
  /** The driver. Each build of the layer is a connection of its own, as of another process, to the same broker. */
  readonly layer: Layer.Layer<Broker, unknown>
  /** What the driver's `abilities` say. Each yes is tried, and each no is asked for and must be refused. */
  readonly abilities: Readonly<Record<Ability, "native" | "emulated" | "none">>
  /**
   * What becomes of a message for a topic that no group has asked for yet: it is kept for groups to come, or the publish is
   * `Rejected` with `NoGroup`. Default `keeps`.
   */
  readonly withoutGroup?: "keeps" | "rejects" | undefined
  /** The shortest lease in milliseconds that the driver keeps exactly; `none` where a delivery lasts as long as its connection. */
  readonly lease: number | "none"
  /**
   * Milliseconds that a delayed message may be late, as far as the broker says; two whose times are nearer than that may come
   * in any order. Default 0: they come in the order of their times.
   */
  readonly lateness?: number | undefined
  /**
   * `false` where things go wrong on purpose, as with `FaultyBroker`: operations are tried again, and duplicates are counted
   * but not refused. Default true.
   */
  readonly calm?: boolean | undefined
  /** From above 0 to 1: the share of messages and rounds. Default 0.1, which takes seconds; 1 is for CI. */
  readonly scale?: number | undefined
  /** How long a case waits for what must happen. Default 15 seconds. */
  readonly patience?: Duration.Input | undefined
  /** The driver, told to keep messages of this topic for groups to come. Default: it keeps them without being told. */
  readonly retain?: ((topic: string) => Layer.Layer<Broker, unknown>) | undefined
  /** Restarts the broker, as an operator would; returns when it is up again. */
  readonly restart?: Effect.Effect<void, unknown> | undefined
  /** Kills the broker (SIGKILL) and starts it again; returns when it is up again. */
  readonly crash?: Effect.Effect<void, unknown> | undefined
  /** A connection that can be cut without a word. */
  readonly blackHole?: BlackHole | undefined
  /** A program that runs the driver in another process, to be killed. */
  readonly worker?: Worker | undefined
  /** Transactions of a database that the driver's `publish` joins. */
  readonly transactions?: Transactions | undefined
}

/** A way to the broker on which packets disappear, as through a proxy that stalls. */
export interface BlackHole {
  /** The driver by this way. */
  readonly layer: Layer.Layer<Broker, unknown>
  /** From now on nothing gets through in either direction, and no connection ends. */
  readonly begin: Effect.Effect<void, unknown>
  /** Connections that are there, or new ones, get through again. */
  readonly end: Effect.Effect<void, unknown>
}

/** A module that does nothing but call {@link conformanceWorker} with the driver's layer. */
export interface Worker {
  /** Its path, or its `file:` URL. */
  readonly file: string | URL
  /** Beside the environment of this process. */
  readonly env?: Readonly<Record<string, string>> | undefined
  /** Options of Node, such as `--conditions=…`. */
  readonly execArgv?: ReadonlyArray<string> | undefined
}

/** How to run something in a transaction. */
export interface Transactions {
  /**
   * Runs the effect, which publishes, in a transaction: commits when it succeeds, else rolls back. The context is all that
   * one build of the layer provides, such as the SQL client beside the broker.
   */
  readonly run: <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    context: Context.Context<Broker>
  ) => Effect.Effect<A, unknown, R>
  /** Whether two can be open at the same time and both write. */
  readonly overlap: boolean
}
