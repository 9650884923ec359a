/**
 * One line of JSON for each order, for whoever counts them. In the background: a line that is lost, with the process or on a
 * full disk, is worth neither a customer's time nor an order.
 */
import { Context, DateTime, Effect, FileSystem, Layer } from "effect"
import { Background } from "millrace"
import type { Order } from "./Order.ts"
import { Settings } from "./Settings.ts"

/** The file, open as long as the program runs. */
export class TrackingLog extends Context.Service<TrackingLog, FileSystem.File>()("orders/TrackingLog") {
  static readonly layer = Layer.effect(
    TrackingLog,
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const { trackingLog } = yield* Settings
      return yield* fs.open(trackingLog, { flag: "a" })
    })
  )
}

/** Returns at once: the customer neither waits for the line nor hears of its failure. */
export const track = Effect.fnUntraced(function* ({ country, id, product, quantity }: Order) {
  const log = yield* TrackingLog
  const at = DateTime.formatIso(yield* DateTime.now)
  const line = JSON.stringify({ event: "placed", at, id, country, product, quantity })
  const warn = (reason: unknown) => Effect.logWarning(`Order ${id} is not in the tracking log`, reason)
  yield* Background.fork(log.writeAll(new TextEncoder().encode(`${line}\n`)), {
    name: `tracking of ${id}`,
    onFailure: warn
  }).pipe(Effect.catchTag("PoolClosed", warn))
})
