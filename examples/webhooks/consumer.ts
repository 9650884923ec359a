/**
 * Delivers what was taken.
 *
 * In order for each subscriber: an event waits until the one before it has been delivered or set aside. One subscriber that is
 * down or slow holds up nobody else: each has at most one request open, and there are slots for many of them.
 */
import { Effect, Layer, Schedule } from "effect"
import { Consumer } from "millrace"
import { reports } from "../shared/reports.ts"
import { Delivery } from "./Delivery.ts"
import { deliver } from "./deliver.ts"
import { Settings } from "./Settings.ts"

export const deliveries = Layer.unwrap(
  Effect.gen(function* () {
    const { attempts, retryMillis, timeoutMillis } = yield* Settings
    const later = Consumer.retry(Schedule.min([Schedule.exponential(retryMillis), Schedule.spaced("1 hour")]))
    return Consumer.layer(Delivery, deliver, {
      group: "deliveries",
      order: "key",
      concurrency: 200,
      // What waits behind the open request of a slow subscriber is held too, up to all that may be held: then the others wait
      // for its timeout. One whose request has failed holds nothing until it is tried again.
      prefetch: 10_000,
      prefetchBytes: 64 * 1024 * 1024,
      maxAttempts: attempts,
      lease: "10 seconds",
      onError: {
        TooBusy: ({ seconds }) => Consumer.delay(`${seconds} seconds`),
        NotDelivered: later,
        Unsubscribed: Consumer.drop("nobody is subscribed any more"),
        SqlError: later
      },
      shutdownDeadline: timeoutMillis,
      onShutdown: reports.consumer
    })
  })
)
