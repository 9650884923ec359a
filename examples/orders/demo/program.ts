/**
 * Programs of this example, started as processes of their own.
 */
import { fileURLToPath } from "node:url"
import { Deferred, Effect, Schema, Stream } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"

/** The program ended before it said where it listens. */
class NotStarted extends Schema.TaggedError<NotStarted>()("NotStarted", { file: Schema.String }) {
  override get message(): string {
    return `${this.file} did not start; what it wrote to standard error stands above`
  }
}

/** Starts a program, and waits until it says at which address it listens. It is killed with the scope. */
export const startProgram = Effect.fnUntraced(function* (file: string, env: Record<string, string>) {
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const path = fileURLToPath(new URL(`../${file}`, import.meta.url))
  const child = yield* spawner.spawn(
    ChildProcess.make(process.execPath, ["--conditions=millrace-source", path], {
      env,
      extendEnv: true,
      stderr: "inherit",
      killSignal: "SIGKILL"
    })
  )
  const address = yield* Deferred.make<string, NotStarted>()
  const lines = yield* child.stdout.pipe(
    Stream.decodeText(),
    Stream.splitLines,
    Stream.tap((line) => {
      const found = /http:\/\/[\d.:]+/.exec(line)?.[0]
      return found === undefined ? Effect.void : Deferred.succeed(address, found)
    }),
    Stream.runCollect,
    Effect.ensuring(Deferred.fail(address, new NotStarted({ file }))),
    Effect.forkScoped
  )
  const url = yield* Deferred.await(address)
  /** Ends it with the signal, and waits until it is gone. */
  const end = (killSignal: "SIGKILL" | "SIGTERM") => child.kill({ killSignal })
  return { url, end, lines }
})
