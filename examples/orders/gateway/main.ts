/**
 * The gateway as a process of its own, which outlives the orders:
 *
 *     SMS_PORT=3001 node --conditions=millrace-source examples/orders/gateway/main.ts
 */
import { NodeRuntime } from "@effect/platform-node"
import { Config, Console, Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { port } from "../Settings.ts"
import { gatewayAt } from "./local.ts"

const printAddress = Layer.effectDiscard(
  HttpServer.addressFormattedWith((address) => Console.log(`Sending SMS at ${address}`))
)

const gateway = Layer.unwrap(
  Effect.map(port("SMS_PORT").pipe(Config.withDefault(3001)), (port) => Layer.provide(printAddress, gatewayAt(port)))
)

NodeRuntime.runMain(Layer.launch(gateway))
