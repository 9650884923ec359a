/**
 * The gateway as a server beside the program, on a free port, until the scope closes.
 */
import { createServer } from "node:http"
import { NodeHttpServer } from "@effect/platform-node"
import { Context, Effect, Layer } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { gatewayRoutes } from "./gateway.ts"

/** A gateway at this port. */
export const gatewayAt = (port: number) =>
  HttpRouter.serve(gatewayRoutes, { disableListenLog: true, disableLogger: true }).pipe(
    Layer.provideMerge(
      NodeHttpServer.layer(createServer, { host: "127.0.0.1", port, gracefulShutdownTimeout: "1 second" })
    )
  )

/** Its address. */
export const localGateway = Effect.map(Layer.build(gatewayAt(0)), (context) => {
  const { address } = Context.get(context, HttpServer.HttpServer)
  return new URL(HttpServer.formatAddress(address))
})
