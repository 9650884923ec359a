/**
 * Tells the customer by SMS. A message, since who was promised one must get it, although the gateway is slow, busy, down, or
 * will not have the number.
 */
import { Effect, Layer, Schedule } from "effect"
import { Consumer } from "millrace"
import { reports } from "../shared/reports.ts"
import { afterKill, OrderPlaced } from "./OrderPlaced.ts"
import { once } from "./once.ts"
import { Settings } from "./Settings.ts"
import { SmsGateway } from "./SmsGateway.ts"
import { note } from "./tables.ts"

export const smsConsumer = Layer.unwrap(
  Effect.gen(function* () {
    const { smsRetryMillis } = yield* Settings
    const gateway = yield* SmsGateway
    const later = Consumer.retry(Schedule.min([Schedule.exponential(smsRetryMillis), Schedule.spaced("5 minutes")]))
    return Consumer.layer(
      OrderPlaced,
      Effect.fnUntraced(function* ({ id, phone, product, quantity }, message) {
        const text = `We have your order: ${quantity} × ${product}.`
        // The process may die between the SMS and the note. Then it is sent again, and the gateway knows it by its id.
        yield* gateway
          .send({ id: message.id, phone, text })
          .pipe(Effect.tapError((error) => note(id, `sms: attempt ${message.attempt} failed, ${error.message}`)))
        yield* once("sms", message, note(id, "sms: sent"))
      }),
      {
        group: "sms",
        concurrency: 16,
        lease: afterKill,
        timeout: "5 seconds",
        // With the schedule above: tried for about a quarter of an hour, then set aside for a person.
        maxAttempts: 12,
        onError: {
          GatewayBusy: ({ retryAfter }) => Consumer.delay(`${retryAfter} seconds`),
          GatewayDown: later,
          NumberRejected: Consumer.deadLetter,
          SqlError: later
        },
        onTimeout: later,
        onShutdown: reports.consumer
      }
    )
  })
)
