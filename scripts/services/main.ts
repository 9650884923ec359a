/**
 * Real servers for tests and examples, on this machine and without Docker. `npm run services` prints how it is used.
 */
import { isName, type Name, services } from "./all.ts"
import { down, exec, Failed, kill, restart, status, type Target, up } from "./commands.ts"
import { Missing } from "./programs.ts"
import { exclusively } from "./state.ts"

const names = Object.keys(services).join(" ")

const usage = `npm run services -- COMMAND [NAME…]

  up [NAME…]                start what is not up; installs what is missing, as root on Debian or Ubuntu
  down [--purge] [NAME…]    stop; --purge removes data and lets go of the ports
  status [NAME…]            what runs, and whether it answers; fails when something is dead
  restart NAME…             stop and start, same data, same ports
  kill NAME…                SIGKILL; \`up\` brings it back
  exec NAME COMMAND…        run the server's own tool, such as: exec rabbitmq rabbitmqctl list_queues

NAME is one of: ${names}; without one, all. Or one process, such as nsq/nsqd2.
All listen on 127.0.0.1 only. Addresses and pids are in .services/services.json, logs in .services/logs.
`

const targetOf = (text: string): Target => {
  const [name = "", process] = text.split("/")
  if (!isName(name)) throw new Failed(`there is no server "${name}"; there are: ${names}`)
  return { name, process }
}

const all = (): ReadonlyArray<Target> =>
  Object.keys(services)
    .filter(isName)
    .map((name: Name) => ({ name }))

const run = async ([command, ...args]: ReadonlyArray<string>): Promise<void> => {
  if (command === "exec") {
    const { name } = targetOf(args[0] ?? "")
    return exec(name, args.slice(args[1] === "--" ? 2 : 1))
  }
  const targets = args.filter((arg) => arg !== "--purge").map(targetOf)
  const some = targets.length > 0 ? targets : all()
  switch (command) {
    case "up":
      return exclusively(() => up(some))
    case "down":
      return exclusively(() => down(some, { purge: args.includes("--purge") }))
    case "status":
      return status(some)
    case "restart":
    case "kill":
      if (targets.length === 0) throw new Failed(`${command} needs the name of a server`)
      return exclusively(() => (command === "kill" ? kill(targets) : restart(targets)))
    default:
      throw new Failed(usage)
  }
}

try {
  await run(process.argv.slice(2))
} catch (error) {
  console.error(error instanceof Failed || error instanceof Missing ? error.message : error)
  process.exitCode = 1
}
