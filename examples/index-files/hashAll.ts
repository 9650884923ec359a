/**
 * All files through one pool.
 */
import type { Cause } from "effect"
import { Console, Deferred, Effect, Stream } from "effect"
import { WorkerPool } from "millrace"
import type { CannotRun, Unreadable } from "./errors.ts"
import type { HashedFile } from "./hashFile.ts"
import { hashFile } from "./hashFile.ts"
import { withProgress } from "./progress.ts"
import type { Tally } from "./Tally.ts"

/** How long Ctrl-C lets the files in hand be finished. */
const patience = "3 seconds"

/**
 * Hashes every file, hands it to `onHashed` and adds it to the tally. A file that cannot be read is noted there and the
 * others go on; a failure of `onHashed` ends the run. Interrupted, it takes no more files and finishes those in hand.
 */
export const hashAll = Effect.fnUntraced(function* <R>(
  files: Stream.Stream<string, never, R>,
  tally: Tally,
  onHashed: (file: HashedFile) => Effect.Effect<void, CannotRun>
) {
  const pool = yield* WorkerPool.make({
    name: "files",
    concurrency: 8,
    // While 64 files wait, `fork` waits too and the stream is not pulled: that bounds the memory.
    capacity: 64,
    shutdownDeadline: patience,
    shutdownGrace: "1 second"
  })
  const broken = yield* Deferred.make<never, CannotRun>()

  const work = Effect.fnUntraced(
    function* (path: string) {
      const file = yield* hashFile(path)
      yield* onHashed(file)
      yield* tally.add(file)
    },
    Effect.catchTag("CannotRun", (error) => Deferred.fail(broken, error))
  )

  // Nobody waits for a single file, so its failure comes here.
  const onFailure = (cause: Cause.Cause<Unreadable | WorkerPool.PoolClosed>) =>
    Effect.failCause(cause).pipe(
      Effect.catchTags({
        Unreadable: tally.addUnreadable,
        // Not finished when the pool closed: the ShutdownReport says so.
        PoolClosed: () => Effect.void
      })
    )

  const all = files.pipe(
    Stream.runForEach((path) => pool.fork(work(path), { name: path, onFailure })),
    Effect.andThen(pool.awaitIdle)
  )
  const progress = Effect.map(
    pool.accounting,
    ({ queued, running }) => `${tally.soFar}; ${running} being read, ${queued} waiting`
  )
  yield* Effect.raceFirst(all, Deferred.await(broken)).pipe(
    withProgress(progress),
    Effect.onInterrupt(
      Effect.fnUntraced(function* () {
        yield* Console.log(`Interrupted: at most ${patience} for the files in hand.`)
        const report = yield* pool.shutdown()
        yield* Console.log(WorkerPool.formatReport(report))
      })
    )
  )
}, Effect.scoped)
