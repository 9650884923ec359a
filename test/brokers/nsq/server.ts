/** An nsqd of a test's own, with the flags that the test is about. */
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Schedule } from "effect"
import { NsqProtocol } from "millrace/nsq"
import { folder } from "../../../scripts/services/state.ts"

const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    server.close(() => resume(Effect.succeed(port)))
  })
})

/** An nsqd with these flags, until the scope closes. */
export const nsqd = (...flags: ReadonlyArray<string>) =>
  Effect.gen(function* () {
    const [tcp, http] = [yield* freePort, yield* freePort]
    yield* Effect.acquireRelease(
      Effect.sync(() => {
        const data = mkdtempSync(join(tmpdir(), "millrace-nsqd-"))
        const args = [`-tcp-address=127.0.0.1:${tcp}`, `-http-address=127.0.0.1:${http}`, `-data-path=${data}`]
        const child = spawn(join(folder, "installed/nsq/nsqd"), [...args, ...flags], { stdio: "ignore" })
        return { child, data }
      }),
      ({ child, data }) =>
        Effect.callback<void>((resume) => {
          child.once("exit", () => {
            rmSync(data, { recursive: true, force: true })
            resume(Effect.void)
          })
          child.kill("SIGKILL")
        })
    )
    const connected = NsqProtocol.connect({ host: "127.0.0.1", port: tcp })
    const refused = (error: unknown) => error instanceof NsqProtocol.ConnectionLost
    // One that wants TLS or a secret says so, and is there.
    yield* Effect.scoped(
      Effect.ignore(Effect.retry(connected, { while: refused, schedule: Schedule.spaced("50 millis") }))
    )
    return { tcp: `127.0.0.1:${tcp}`, http: `http://127.0.0.1:${http}` }
  })
