/** RabbitMQ, one node with its own name service (epmd), cookie and configuration; it touches nothing of the machine's own. */
import { chmodSync, existsSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { ask } from "./probe.ts"
import { need } from "./programs.ts"
import { define, host, type Place, type Program } from "./Service.ts"

// Not Debian's wrappers on the PATH, which change the user.
const server: Program = {
  command: "rabbitmq-server",
  folders: ["/usr/lib/rabbitmq/bin"],
  apt: "rabbitmq-server"
}
const epmd: Program = { command: "epmd", apt: "erlang-base" }

type Port = "amqp" | "distribution" | "epmd"

/** What `rabbitmqctl` needs to find the node, and the server too. */
const common = ({ data, ports }: Place<Port>) => ({
  HOME: data, // Erlang looks for its cookie here.
  RABBITMQ_NODENAME: "millrace@localhost",
  RABBITMQ_CONF_ENV_FILE: join(data, "rabbitmq-env.conf"),
  RABBITMQ_CTL_ERL_ARGS: onLoopback,
  ERL_EPMD_PORT: String(ports.epmd),
  ERL_EPMD_ADDRESS: host
})

const onLoopback = "-kernel inet_dist_use_interface {127,0,0,1}"

export const rabbitmq = define({
  name: "rabbitmq",
  needs: [server, epmd],
  ports: ["amqp", "distribution", "epmd"],
  async prepare({ data, ports }) {
    const cookie = join(data, ".erlang.cookie")
    if (!existsSync(cookie)) writeFileSync(cookie, "millrace")
    chmodSync(cookie, 0o400)
    writeFileSync(join(data, "rabbitmq-env.conf"), "")
    writeFileSync(join(data, "enabled_plugins"), "[].\n")
    writeFileSync(join(data, "rabbitmq.conf"), `listeners.tcp.1 = ${host}:${ports.amqp}\nloopback_users.guest = true\n`)
  },
  processes: (place) => [
    {
      name: "epmd",
      command: need(epmd),
      args: ["-port", String(place.ports.epmd), "-address", host],
      port: place.ports.epmd,
      // "Which nodes do you know?" It answers with its own port first.
      ready: () => ask(place.ports.epmd, Buffer.from([0, 1, 110]), (answer) => answer.length >= 4)
    },
    {
      name: "rabbitmq",
      command: need(server),
      args: [],
      env: {
        ...common(place),
        // The server takes the place of its shell script, so that the pid is its own.
        RUNNING_UNDER_SYSTEMD: "true",
        RABBITMQ_CONFIG_FILE: join(place.data, "rabbitmq.conf"),
        RABBITMQ_ENABLED_PLUGINS_FILE: join(place.data, "enabled_plugins"),
        RABBITMQ_MNESIA_BASE: join(place.data, "mnesia"),
        RABBITMQ_LOG_BASE: join(place.data, "log"),
        RABBITMQ_LOGS: "-",
        RABBITMQ_PID_FILE: join(place.data, "pid"),
        RABBITMQ_DIST_PORT: String(place.ports.distribution),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: onLoopback
      },
      port: place.ports.amqp,
      // The header of AMQP 0-9-1; the server begins with a method frame.
      ready: () => ask(place.ports.amqp, "AMQP\0\0\x09\x01", (answer) => answer[0] === 1)
    }
  ],
  urls: ({ amqp }) => ({ amqp: `amqp://guest:guest@${host}:${amqp}` }),
  env: common,
  tools: () => dirname(need(server))
})
