/**
 * The file of checksums, in the format that `sha256sum --check` reads.
 */
import type { PlatformError } from "effect"
import { Effect, FileSystem, Semaphore } from "effect"
import { CannotRun, reasonOf } from "./errors.ts"
import type { HashedFile } from "./hashFile.ts"

/** Opens the file for the life of the scope, and returns what adds a line to it. */
export const openChecksums = Effect.fnUntraced(
  function* (path: string) {
    const fs = yield* FileSystem.FileSystem
    const file = yield* fs.open(path, { flag: "w" })
    const oneAtATime = yield* Semaphore.make(1)
    const encoder = new TextEncoder()
    return (hashed: HashedFile) =>
      file.writeAll(encoder.encode(formatLine(hashed))).pipe(
        oneAtATime.withPermit,
        // The place of the next line is known when this one is written.
        Effect.uninterruptible,
        Effect.mapError(cannotWrite(path))
      )
  },
  (effect, path) => Effect.mapError(effect, cannotWrite(path))
)

const cannotWrite = (path: string) => (error: PlatformError.PlatformError) =>
  new CannotRun({ message: `Cannot write ${path}: ${reasonOf(error)}` })

/** As `sha256sum` does, a line begins with a backslash where the path had to be escaped. */
const formatLine = ({ path, sha256 }: HashedFile): string => {
  const escaped = path.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\r", "\\r")
  return `${escaped === path ? "" : "\\"}${sha256}  ${escaped}\n`
}
