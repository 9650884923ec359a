/**
 * Webhooks: takes events over HTTP, and delivers each to the URL of everybody who has subscribed.
 *
 *     PORT=3100 DATABASE=webhooks.db node --conditions=millrace-source examples/webhooks/main.ts
 *
 * - `POST /events` with `{ "type", "data", "id"? }` answers 202 when the event is on disk. It then reaches each subscriber of
 *   that moment, also when this process is killed: at least once, with the same `webhook-id` each time.
 * - A subscriber gets its events one at a time and in order. It has `TIMEOUT_MILLIS` to answer with 2xx. If it does not, the
 *   event is tried again, later each time, and those behind it wait; other subscribers do not notice.
 * - After `ATTEMPTS` the event is set aside, and the next one is tried. `GET /subscribers/<id>/dead-letters` shows what was
 *   set aside and why, and `POST /subscribers/<id>/dead-letters/replay` sends it again.
 * - Requests are signed: see `signature.ts`, and `receiver.ts` for who receives them.
 * - SIGTERM lets running deliveries end and prints what was done; SIGUSR2 prints what is under way.
 *
 * `POST`, `GET` and `DELETE /subscribers` say who gets events. Whoever can call this service can send requests from where it
 * runs: put it behind what authenticates your callers, and let it reach no network that subscribers should not.
 */
import { NodeHttpClient } from "@effect/platform-node"
import { Effect, Layer } from "effect"
import { TaskDump } from "millrace"
import { Sqlite } from "millrace/sqlite"
import { serve, serverAt } from "../shared/http.ts"
import { launch, runMain } from "../shared/runService.ts"
import { deliveries } from "./consumer.ts"
import { eventsTable } from "./events.ts"
import { routes } from "./http.ts"
import { Settings } from "./Settings.ts"
import { Subscribers } from "./Subscribers.ts"
import { printUsage } from "./usage.ts"

const server = Layer.unwrap(Effect.map(Settings, ({ port }) => serverAt(port)))
const broker = Layer.unwrap(Effect.map(Settings, ({ database }) => Sqlite.layer({ filename: database })))

// Not `fetch`, which follows redirects to where nobody has subscribed, and refuses some ports.
const client = NodeHttpClient.layerUndici

// Opened from the bottom up and closed from the top down: first nobody comes in any more, then what runs is delivered.
const app = printUsage.pipe(
  Layer.provide(serve(routes)),
  Layer.provide(Layer.provide(deliveries, client)),
  Layer.provide(Layer.mergeAll(Subscribers.layer, eventsTable, TaskDump.layerOnSignal())),
  Layer.provide(broker),
  Layer.provide(server),
  Layer.provide(Settings.layer)
)

runMain(launch(app))
