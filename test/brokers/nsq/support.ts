/** What the tests of NSQ share. */
import { setTimeout } from "node:timers/promises"
import { Context, Effect, Layer, Logger } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { Nsq } from "millrace/nsq"
import { TcpProxy } from "millrace/testing"

/** Host and port of an address such as `127.0.0.1:4150`. */
export const hostAndPort = (address: string): { readonly host: string; readonly port: number } => {
  const [host = "", port = ""] = address.split(":")
  return { host, port: Number(port) }
}

/** A proxy in front of an nsqd, and the address by it. */
export const proxied = (address: string) =>
  Effect.map(TcpProxy.make({ port: hostAndPort(address).port }), (proxy) => ({
    proxy,
    address: `${proxy.host}:${proxy.port}`
  }))

/** A driver of its own, which closes with the scope. */
export const connect = (options: Nsq.Options<"default">) =>
  Effect.map(Layer.build(Nsq.layer(options)), (context): Driver.Driver => Context.get(context, Broker.Broker))

/** A logger that keeps what it is told. */
export const keptLog = () => {
  const lines: Array<string> = []
  return { lines, layer: Logger.layer([Logger.make<unknown, void>(({ message }) => lines.push(String(message)))]) }
}

/** A name that nobody has used. */
export const fresh = (): string => `test-${crypto.randomUUID().slice(0, 8)}`

/** Waits until the condition holds, in real time also where the test has a clock of its own. */
export const until = (what: string, condition: () => boolean): Effect.Effect<void> =>
  Effect.promise(async (signal) => {
    const end = performance.now() + 40_000
    while (!condition() && !signal.aborted) {
      if (performance.now() > end) throw new Error(`${what}: not within 40 seconds`)
      await setTimeout(5)
    }
  })
