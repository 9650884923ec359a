/**
 * What can be set from outside, by environment variables.
 */
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Config, Context, Layer, Schema } from "effect"

export class Settings extends Context.Service<
  Settings,
  {
    readonly port: number
    readonly trackingLog: string
    readonly invoiceMillis: number
  }
>()("orders/Settings") {
  static readonly layer = Layer.effect(
    Settings,
    Config.all({
      /** 0 takes a free one. */
      port: Config.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65535 })), "PORT").pipe(
        Config.withDefault(3000)
      ),
      /** Grows by a line of JSON for each order. */
      trackingLog: Config.NonEmptyString("TRACKING_LOG").pipe(Config.withDefault(join(tmpdir(), "orders.jsonl"))),
      /** How long an invoice takes, so that a person can watch the pool fill up. */
      invoiceMillis: Config.schema(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)), "INVOICE_MILLIS").pipe(
        Config.withDefault(200)
      )
    })
  )
}
