/**
 * Runs a service until it is told to stop.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Logger, Runtime } from "effect"
import type { StartError } from "./CannotStart.ts"
import { CannotStart } from "./CannotStart.ts"

/** Keeps the layer open until SIGTERM or SIGINT, and closes it in order. */
export const launch = <A, R>(service: Layer.Layer<A, StartError, R>) =>
  Layer.launch(service).pipe(
    Effect.mapError(CannotStart.from),
    Effect.tapError((error) => Console.error(error.message))
  )

export const runMain = <E>(program: Effect.Effect<unknown, E>): void =>
  program.pipe(
    // Standard output is for what a person reads.
    Effect.provideService(Logger.LogToStderr, true),
    NodeRuntime.runMain({
      // A service that was told to stop and did has not failed.
      teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
    })
  )
