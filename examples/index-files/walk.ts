/**
 * The files under a folder, found as they are asked for.
 */
import { Array as Arr, Effect, FileSystem, Option, Path, Stream } from "effect"
import { reasonOf, Unreadable } from "./errors.ts"

/**
 * The paths of all regular files, each beginning with `root`. Symbolic links are not followed, so the walk can neither
 * leave the folder nor run in a circle.
 *
 * A folder is read when the files before it were taken. In memory are the names in one folder and the folders still to
 * be read, never the whole list of files.
 */
export const walk = (
  root: string,
  onUnreadable: (error: Unreadable) => Effect.Effect<void>
): Stream.Stream<string, never, FileSystem.FileSystem | Path.Path> =>
  Stream.paginate(
    Arr.of(root),
    Effect.fnUntraced(function* ([folder, ...rest]: Arr.NonEmptyReadonlyArray<string>) {
      const fs = yield* FileSystem.FileSystem
      const path = yield* Path.Path
      const entries = yield* fs
        .readDirectoryEntries(folder)
        .pipe(
          Effect.catch((error) =>
            Effect.as(onUnreadable(new Unreadable({ path: folder, reason: reasonOf(error) })), [])
          )
        )
      const pathsOf = (type: "File" | "Directory") =>
        entries.filter((entry) => entry.type === type).map((entry) => path.join(folder, entry.name))
      const folders: ReadonlyArray<string> = [...pathsOf("Directory"), ...rest]
      return [pathsOf("File"), Option.liftPredicate(folders, Arr.isReadonlyArrayNonEmpty)] as const
    })
  )
