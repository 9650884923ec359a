/** How connections of the driver are opened. */
import type { ConnectOptions } from "../protocol/Connection.ts"
import type { NodeAddress, Settings } from "./Settings.ts"

export const connectOptions = (settings: Settings, { host, port }: NodeAddress): ConnectOptions => ({
  host,
  port,
  connectTimeout: settings.connectTimeout,
  heartbeat: settings.heartbeat,
  ...(settings.outputBufferTimeout > 0
    ? { outputBufferTimeout: settings.outputBufferTimeout }
    : // Without a buffer there is nothing to wait for.
      { outputBufferTimeout: -1, outputBufferSize: -1 }),
  // A message of a server that allows more than the options say is no reason to lose its connection.
  maxFrameBytes: Math.max(16 * 1024 * 1024, 2 * settings.maxFrameBytes),
  tls: settings.tls,
  authSecret: settings.authSecret
})
