/**
 * What can be set from outside, by environment variables.
 */
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Config, Context, Layer, Schema } from "effect"

const port = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65535 }))
const positive = Schema.Int.check(Schema.isGreaterThan(0))

export class Settings extends Context.Service<
  Settings,
  {
    readonly port: number
    readonly database: string
    readonly timeoutMillis: number
    readonly retryMillis: number
    readonly attempts: number
  }
>()("webhooks/Settings") {
  static readonly layer = Layer.effect(
    Settings,
    Config.all({
      /** 0 takes a free one. */
      port: Config.schema(port, "PORT").pipe(Config.withDefault(3100)),
      /** The one file: subscribers, and the events on their way to them. */
      database: Config.NonEmptyString("DATABASE").pipe(Config.withDefault(join(tmpdir(), "webhooks.db"))),
      /** How long a subscriber may take to answer. */
      timeoutMillis: Config.schema(positive, "TIMEOUT_MILLIS").pipe(Config.withDefault(10_000)),
      /** Time before the second attempt; doubles with each, up to an hour. */
      retryMillis: Config.schema(positive, "RETRY_MILLIS").pipe(Config.withDefault(1_000)),
      /** Attempts before an event is set aside: with the defaults above, that is after more than a day. */
      attempts: Config.schema(positive, "ATTEMPTS").pipe(Config.withDefault(36))
    })
  )
}
