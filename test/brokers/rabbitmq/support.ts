/** What the tests of RabbitMQ share. */
import { Effect } from "effect"
import { TcpProxy } from "millrace/testing"

/** The same server by another port. */
export const byPort = (url: string, port: number): string => {
  const parsed = new URL(url)
  parsed.port = String(port)
  return parsed.href
}

/** A proxy in front of the server, and the url by it. */
export const proxied = (url: string) =>
  Effect.map(TcpProxy.make({ port: Number(new URL(url).port) }), (proxy) => ({ proxy, url: byPort(url, proxy.port) }))

/** A name that nobody has used. */
export const fresh = (): string => `test-${crypto.randomUUID().slice(0, 8)}`
