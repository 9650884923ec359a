/** NATS, one node, with JetStream. */
import { ask } from "./probe.ts"
import { need } from "./programs.ts"
import { define, host, type Program } from "./Service.ts"

const server: Program = { command: "nats-server", folders: ["/usr/sbin"], apt: "nats-server" }

export const nats = define({
  name: "nats",
  needs: [server],
  ports: ["nats"],
  async prepare() {},
  processes: ({ data, ports: { nats } }) => [
    {
      name: "nats",
      command: need(server),
      args: ["-a", host, "-p", String(nats), "-js", "-sd", data],
      port: nats,
      ready: () => ask(nats, "CONNECT {}\r\nPING\r\n", (answer) => answer.toString().includes("PONG\r\n"))
    }
  ],
  urls: ({ nats }) => ({ nats: `nats://${host}:${nats}` }),
  env: ({ ports }) => ({ NATS_URL: `nats://${host}:${ports.nats}` })
})
