/** Redis, one node. Every write is in its append-only file before it is answered. */
import { ask } from "./probe.ts"
import { need } from "./programs.ts"
import { define, host, type Program } from "./Service.ts"

const server: Program = { command: "redis-server", apt: "redis-server" }

export const redis = define({
  name: "redis",
  needs: [server],
  ports: ["redis"],
  async prepare() {},
  processes: ({ data, ports: { redis } }) => [
    {
      name: "redis",
      command: need(server),
      args: ["--port", String(redis), "--bind", host, "--dir", data, "--appendonly", "yes", "--save", ""],
      port: redis,
      ready: () => ask(redis, "PING\r\n", (answer) => answer.toString() === "+PONG\r\n")
    }
  ],
  urls: ({ redis }) => ({ redis: `redis://${host}:${redis}` }),
  env: ({ ports }) => ({ REDIS_URL: `redis://${host}:${ports.redis}` })
})
