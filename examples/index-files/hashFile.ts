/**
 * What is done with each file.
 */
import { createHash } from "node:crypto"
import { Effect, FileSystem, Stream } from "effect"
import { reasonOf, Unreadable } from "./errors.ts"

export interface HashedFile {
  readonly path: string
  readonly bytes: number
  /** In hexadecimal. */
  readonly sha256: string
}

/** Reads the file in pieces of 64 KiB, so that a large file costs no more memory than a small one. */
export const hashFile = Effect.fnUntraced(function* (
  path: string
): Effect.fn.Return<HashedFile, Unreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const hash = createHash("sha256")
  let bytes = 0
  yield* fs.stream(path).pipe(
    Stream.runForEach((piece) =>
      Effect.sync(() => {
        hash.update(piece)
        bytes += piece.length
      })
    ),
    Effect.mapError((error) => new Unreadable({ path, reason: reasonOf(error) }))
  )
  return { path, bytes, sha256: hash.digest("hex") }
})
