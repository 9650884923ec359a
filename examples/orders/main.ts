/**
 * A service that takes orders over HTTP and works them off behind the answer:
 *
 *     node --conditions=millrace-source examples/orders/main.ts [--broker sqlite|kafka|rabbitmq|nsq]
 *
 * Its work is of three kinds, by what happens when the process dies:
 *
 * - SMS and stock are messages (`sms.ts`, `stock.ts`): an order that was accepted is worked off, whatever dies when.
 * - Invoices are tasks of a pool (`Invoices.ts`): somebody waits for each, and asks again when no answer comes.
 * - Tracking is background work (`tracking.ts`): a line that is lost is worth nobody's time.
 */
import { NodeServices } from "@effect/platform-node"
import { Effect, Layer, Struct } from "effect"
import { Command, Flag } from "effect/cli"
import type { Broker } from "millrace"
import { Background, TaskDump } from "millrace"
import { serve, serverAt } from "../shared/http.ts"
import { reports } from "../shared/reports.ts"
import { launch, runMain } from "../shared/runService.ts"
import type { Needed } from "./brokers.ts"
import { brokers } from "./brokers.ts"
import { deadLetterRoutes } from "./deadLetters.ts"
import { orderRoutes } from "./http.ts"
import { Invoices } from "./Invoices.ts"
import { Settings } from "./Settings.ts"
import { SmsGateway } from "./SmsGateway.ts"
import { smsConsumer } from "./sms.ts"
import { stockConsumer, stockInAnyOrder } from "./stock.ts"
import { tables } from "./tables.ts"
import { TrackingLog } from "./tracking.ts"
import { printUsage } from "./usage.ts"

const work = Layer.mergeAll(
  Layer.provide(smsConsumer, SmsGateway.layer),
  Invoices.layerWith({ onShutdown: reports.pool }),
  Background.layer({ name: "Tracking", shutdownDeadline: "5 seconds", onShutdown: reports.pool })
)

const server = Layer.unwrap(Effect.map(Settings, ({ port }) => serverAt(port)))

/**
 * Opened from the bottom up and closed from the top down. So a port in use is known before anything else is open; and at the
 * end nobody comes in any more when pools and consumers drain, and what they need is still there while they do.
 */
const app = <Can extends Broker.Ability, E, E2>(
  broker: Layer.Layer<Needed<Can>, E, Settings>,
  stock: Layer.Layer<never, E2, Needed<Can>>
) =>
  printUsage.pipe(
    Layer.provide(serve(Layer.mergeAll(orderRoutes, deadLetterRoutes))),
    Layer.provide(work),
    Layer.provide(stock),
    Layer.provide(Layer.mergeAll(TrackingLog.layer, tables, TaskDump.layerOnSignal())),
    Layer.provide(broker),
    Layer.provide(server),
    Layer.provide(Settings.layer)
  )

/** The same program, on one broker or another. */
const apps = {
  sqlite: app(brokers.sqlite, stockConsumer),
  kafka: app(brokers.kafka, stockConsumer),
  rabbitmq: app(brokers.rabbitmq, stockConsumer),
  nsq: app(brokers.nsq, stockInAnyOrder)
}

const broker = Flag.Literals("broker", Struct.keys(apps)).pipe(
  Flag.withDescription("Where messages are kept"),
  Flag.withDefault("sqlite")
)

Command.make("orders", { broker }, ({ broker }) => launch(apps[broker])).pipe(
  Command.withDescription("Take orders over HTTP and work them off"),
  Command.run({ version: "0.1.0" }),
  Effect.provide(NodeServices.layer),
  runMain
)
