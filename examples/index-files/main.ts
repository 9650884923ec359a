/**
 * Hashes and measures every file of a folder, and sums up by file type:
 *
 *     node --conditions=millrace-source examples/index-files/main.ts [folder] [--hashes FILE]
 */
import { fileURLToPath } from "node:url"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Clock, Console, Effect, FileSystem, Logger, Option, Path, Stream } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { openChecksums } from "./Checksums.ts"
import { CannotRun, reasonOf } from "./errors.ts"
import { hashAll } from "./hashAll.ts"
import { Tally } from "./Tally.ts"
import { walk } from "./walk.ts"

const folder = Argument.String("folder").pipe(
  Argument.withDescription("Folder to index; default: the node_modules of this repository"),
  Argument.withDefault(fileURLToPath(new URL("../../node_modules", import.meta.url)))
)

const hashes = Flag.String("hashes").pipe(
  Flag.withMetavar("FILE"),
  Flag.withDescription("Write the hashes to a file that `sha256sum --check` reads"),
  Flag.optional
)

const checkFolder = Effect.fnUntraced(function* (folder: string) {
  const fs = yield* FileSystem.FileSystem
  const { type } = yield* fs
    .stat(folder)
    .pipe(Effect.mapError((error) => new CannotRun({ message: `Cannot index ${folder}: ${reasonOf(error)}` })))
  if (type !== "Directory") return yield* new CannotRun({ message: `Cannot index ${folder}: it is not a folder` })
})

const index = Effect.fnUntraced(
  function* (folder: string, hashes: Option.Option<string>) {
    const path = yield* Path.Path
    const start = yield* Clock.currentTimeMillis
    yield* checkFolder(folder)
    const writeChecksum = Option.isSome(hashes) ? yield* openChecksums(hashes.value) : () => Effect.void

    const tally = new Tally()
    const printSummary = Effect.gen(function* () {
      const elapsed = (yield* Clock.currentTimeMillis) - start
      const peakMemory = process.resourceUsage().maxRSS * 1024
      yield* Console.log(tally.summary(elapsed, peakMemory))
    })

    // The file of hashes may lie in the folder; a hash of it would be wrong as soon as it is written.
    const isHashes = (file: string) => Option.exists(hashes, (hashes) => path.resolve(file) === path.resolve(hashes))
    const files = walk(folder, tally.addUnreadable).pipe(Stream.filter((file) => !isHashes(file)))
    yield* hashAll(files, tally, writeChecksum).pipe(Effect.ensuring(printSummary))
  },
  Effect.scoped,
  Effect.tapErrorTag("CannotRun", (error) => Console.error(error.message))
)

Command.make("index-files", { folder, hashes }, ({ folder, hashes }) => index(folder, hashes)).pipe(
  Command.withDescription("Hash and measure every file of a folder, and sum up by file type"),
  Command.run({ version: "0.1.0" }),
  Effect.provide(NodeServices.layer),
  // Standard output is for the summary.
  Effect.provideService(Logger.LogToStderr, true),
  NodeRuntime.runMain
)
