/** What the tests of NSQ share. */
import { Effect } from "effect"
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

/** A name that nobody has used. */
export const fresh = (): string => `test-${crypto.randomUUID().slice(0, 8)}`
