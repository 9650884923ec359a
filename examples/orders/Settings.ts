/**
 * What can be set from outside, by environment variables.
 */
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Config, Context, Layer, Redacted, Schema } from "effect"

const millis = (name: string) => Config.schema(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)), name)

const list = (name: string, fallback: string) =>
  Config.NonEmptyString(name).pipe(
    Config.withDefault(fallback),
    Config.map((list) => list.split(","))
  )

/** 0 takes a free one. */
export const port = (name: string) =>
  Config.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 65535 })), name)

/** The log of the gateway that ships with the example: a line of JSON for each SMS that it has sent. */
export const smsLog = Config.NonEmptyString("SMS_LOG").pipe(Config.withDefault(join(tmpdir(), "orders-sms.jsonl")))

export class Settings extends Context.Service<
  Settings,
  {
    readonly port: number
    readonly database: string
    /** Servers of a Kafka cluster, as `host:port`. */
    readonly kafka: ReadonlyArray<string>
    /** A RabbitMQ server, as `amqp://user:password@host:port/vhost`. */
    readonly rabbitmq: Redacted.Redacted
    /** Of each nsqlookupd its HTTP address. */
    readonly nsq: ReadonlyArray<string>
    readonly trackingLog: string
    readonly smsGateway: URL | undefined
    readonly smsRetryMillis: number
    readonly invoiceMillis: number
  }
>()("orders/Settings") {
  static readonly layer = Layer.effect(
    Settings,
    Config.all({
      port: port("PORT").pipe(Config.withDefault(3000)),
      /** The one file: orders, stock, and the messages about them. */
      database: Config.NonEmptyString("DATABASE").pipe(Config.withDefault(join(tmpdir(), "orders.db"))),
      kafka: list("KAFKA_BROKERS", "127.0.0.1:9092"),
      rabbitmq: Config.Redacted("RABBITMQ_URL").pipe(
        Config.withDefault(Redacted.make("amqp://guest:guest@127.0.0.1:5672"))
      ),
      nsq: list("NSQ_LOOKUPD", "http://127.0.0.1:4161"),
      /** Grows by a line of JSON for each order. */
      trackingLog: Config.NonEmptyString("TRACKING_LOG").pipe(Config.withDefault(join(tmpdir(), "orders.jsonl"))),
      /** Where SMS are sent through. Without it, the program starts the gateway that ships with it. */
      smsGateway: Config.URL("SMS_GATEWAY").pipe(Config.withDefault(undefined)),
      /** How long after its first failure an SMS is tried again; later ones wait longer. */
      smsRetryMillis: millis("SMS_RETRY_MILLIS").pipe(Config.withDefault(500)),
      /** How long an invoice takes, so that a person can watch the pool fill up. */
      invoiceMillis: millis("INVOICE_MILLIS").pipe(Config.withDefault(200))
    })
  )
}
