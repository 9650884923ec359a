/** PostgreSQL, one server; user `millrace`, no password, database `postgres`. */
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { chmodSync, chownSync, existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { ask } from "./probe.ts"
import { Missing, need, run } from "./programs.ts"
import { define, host, type Program, type User } from "./Service.ts"
import { folder } from "./state.ts"

const server: Program = { command: "postgres", folders: ["/usr/lib/postgresql/*/bin"], apt: "postgresql" }

/** PostgreSQL refuses to run as root; then it runs as the user that its package made. */
const user = (): User | undefined => {
  if (process.getuid?.() !== 0) return undefined
  const id = (flag: string) => Number(execFileSync("id", [flag, "postgres"], { encoding: "utf8" }))
  try {
    return { uid: id("-u"), gid: id("-g") }
  } catch {
    throw new Missing("PostgreSQL does not run as root: create a user `postgres`, or run this as another user")
  }
}

/** Version 3.0, then names and values. */
const startup = (): Buffer => {
  const body = Buffer.from("\0\x03\0\0user\0millrace\0database\0postgres\0\0", "latin1")
  const length = Buffer.alloc(4)
  length.writeInt32BE(body.length + 4)
  return Buffer.concat([length, body])
}

/** `Z` says that it is ready for a query; an error (`E`) says for instance that it is still starting up. */
const isReady = (answer: Buffer): boolean => {
  for (let at = 0; at + 5 <= answer.length; at += 1 + answer.readInt32BE(at + 1)) {
    const type = String.fromCharCode(answer[at] ?? 0)
    if (type === "E") throw new Error(answer.subarray(at + 5).toString())
    if (type === "Z") return true
  }
  return false
}

export const postgres = define({
  name: "postgres",
  needs: [server],
  ports: ["postgres"],
  // The other user may not be allowed into the project's folder, so root's data lies where all may go.
  data: () =>
    process.getuid?.() === 0
      ? `/var/tmp/millrace-postgres-${createHash("sha256").update(folder).digest("hex").slice(0, 12)}`
      : join(folder, "data/postgres"),
  async prepare({ data }) {
    if (existsSync(join(data, "PG_VERSION"))) return
    const owner = user()
    if (owner !== undefined) chownSync(data, owner.uid, owner.gid)
    chmodSync(data, 0o700)
    await run(
      join(dirname(need(server)), "initdb"),
      ["-D", data, "-U", "millrace", "--auth=trust", "--encoding=UTF8", "--locale=C"],
      { cwd: "/", ...owner }
    )
  },
  processes: ({ data, ports: { postgres } }) => [
    {
      name: "postgres",
      command: need(server),
      // No socket in the file system: one way in is enough.
      args: ["-D", data, "-p", String(postgres), "-c", `listen_addresses=${host}`, "-c", "unix_socket_directories="],
      user: user(),
      port: postgres,
      stop: "SIGINT", // Does not wait for clients to leave.
      ready: () => ask(postgres, startup(), isReady)
    }
  ],
  urls: ({ postgres }) => ({ postgres: `postgresql://millrace@${host}:${postgres}/postgres` }),
  env: ({ ports }) => ({
    PGHOST: host,
    PGPORT: String(ports.postgres),
    PGUSER: "millrace",
    PGDATABASE: "postgres"
  }),
  tools: () => dirname(need(server))
})
