/**
 * A service that takes orders over HTTP and works them off behind the answer:
 *
 *     node --conditions=millrace-source examples/orders/main.ts
 */
import { createServer } from "node:http"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Console, Effect, Layer, Logger, Runtime } from "effect"
import { HttpRouter } from "effect/http"
import { Background, TaskDump, WorkerPool } from "millrace"
import { CannotStart } from "./CannotStart.ts"
import { routes } from "./http.ts"
import { Invoices } from "./Invoices.ts"
import { Settings } from "./Settings.ts"
import { Statuses } from "./Statuses.ts"
import { TrackingLog } from "./tracking.ts"
import { printUsage } from "./usage.ts"

const server = Layer.unwrap(
  Effect.map(Settings, ({ port }) =>
    NodeHttpServer.layer(createServer, { host: "127.0.0.1", port, gracefulShutdownTimeout: "5 seconds" })
  )
)

const onShutdown = (report: WorkerPool.ShutdownReport) => Console.log(WorkerPool.formatReport(report))

const pools = Layer.mergeAll(
  Invoices.layerWith({ onShutdown }),
  Background.layer({ name: "Tracking", shutdownDeadline: "5 seconds", onShutdown })
)

// Opened from the bottom up and closed from the top down. So a port in use is known before anything else is open; and at
// the end nobody comes in any more when the pools drain, and the tracking log is still open while they do.
const app = printUsage.pipe(
  Layer.provide(HttpRouter.serve(routes, { disableListenLog: true, disableLogger: true })),
  Layer.provide(pools),
  Layer.provide(Layer.mergeAll(TrackingLog.layer, Statuses.layer)),
  Layer.provide(TaskDump.layerOnSignal()),
  Layer.provide(server),
  Layer.provide(Settings.layer)
)

Layer.launch(app).pipe(
  Effect.mapError(CannotStart.from),
  Effect.tapError((error) => Console.error(error.message)),
  // Standard output is for what a person reads.
  Effect.provideService(Logger.LogToStderr, true),
  NodeRuntime.runMain({
    // A service that was told to stop and did has not failed.
    teardown: (exit, onExit) => Runtime.defaultTeardown(exit, (code) => onExit(code === 130 ? 0 : code))
  })
)
