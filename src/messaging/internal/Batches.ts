/**
 * Messages handled many at a time: gathered until the batch is full or its first message has waited long enough, run as one
 * task of the pool, and judged one by one.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import type { Envelope } from "../Envelope.ts"
import { inOwnFiber } from "./Attempts.ts"
import type { ConsumerEngine } from "./ConsumerEngine.ts"
import type { Held } from "./Held.ts"
import type { Restore } from "./Restore.ts"
import type { Attempt } from "./Verdict.ts"

/** A message of a batch, decoded. */
export interface BatchItem {
  readonly value: unknown
  readonly message: Envelope
}

/** A message that can be handled. */
interface Readable {
  readonly held: Held
  readonly value: unknown
}

/** Answers nothing where all went well, or a result for each. */
export type HandleBatch = (batch: ReadonlyArray<BatchItem>) => Effect.Effect<unknown, unknown, Scope.Scope>

export class Batches {
  private gathered: Array<Held> = []
  private timer: Fiber.Fiber<void> | undefined = undefined
  private readonly engine: ConsumerEngine
  private readonly handle: HandleBatch
  private readonly size: number
  private readonly linger: number

  constructor(engine: ConsumerEngine, handle: HandleBatch, size: number, linger: number) {
    this.engine = engine
    this.handle = handle
    this.size = size
    this.linger = linger
  }

  /** Takes what has come; full batches start at once. */
  readonly add = (held: ReadonlyArray<Held>): Effect.Effect<void> =>
    Effect.suspend(() => {
      this.gathered.push(...held)
      const full: Array<ReadonlyArray<Held>> = []
      while (this.gathered.length >= this.size) full.push(this.gathered.splice(0, this.size))
      // The time of the linger is that of the first message, which is another one now.
      if (full.length > 0) this.stopTimer()
      const started = Effect.forEach(full, (batch) => this.start(batch), { discard: true })
      return this.gathered.length === 0 || this.timer !== undefined ? started : Effect.andThen(started, this.startLater)
    })

  private readonly startLater: Effect.Effect<void> = Effect.suspend(() => {
    const flush = Effect.suspend(() => {
      this.timer = undefined
      const batch = this.gathered.splice(0)
      return batch.length === 0 ? Effect.void : this.start(batch)
    })
    return Effect.map(Effect.forkDetach(Effect.andThen(Effect.sleep(this.linger), flush)), (fiber) => {
      this.timer = fiber
    })
  })

  private stopTimer(): void {
    this.timer?.interruptUnsafe()
    this.timer = undefined
  }

  /** The consumer closes: what is gathered will not be run. Its deliveries are given back with the others. */
  readonly close: Effect.Effect<void> = Effect.sync(() => {
    this.gathered = []
    this.stopTimer()
  })

  private start(batch: ReadonlyArray<Held>): Effect.Effect<void> {
    return Effect.match(this.engine.pool.submit(this.process(batch)), {
      onFailure: () => batch.forEach((held) => this.engine.giveBack(held)),
      onSuccess: (handle) => batch.forEach((held) => (held.handle = handle))
    })
  }

  private process(batch: ReadonlyArray<Held>): Effect.Effect<void> {
    const { engine } = this
    return Effect.uninterruptibleMask((restore) =>
      Effect.withFiber((fiber) => {
        const begun = batch.filter((held) => engine.begin(held, fiber, batch))
        if (begun.length === 0) return Effect.void
        return Effect.gen({ self: this }, function* () {
          const readable: Array<Readable> = []
          const ended: Array<{ readonly held: Held; readonly attempt: Attempt }> = []
          for (const held of begun) {
            const read = yield* this.read(held, restore)
            if ("value" in read) readable.push(read)
            else ended.push({ held, attempt: read })
          }
          if (readable.length > 0) {
            const attemptAt = yield* this.runBatch(readable, restore)
            for (const { held } of readable) held.fiber = fiber
            ended.push(...readable.map(({ held }, i) => ({ held, attempt: attemptAt(i) })))
          }
          // First what is soon done: a dead letter may have to be written again and again.
          ended.sort((a, b) => Number(isSuccess(b.attempt)) - Number(isSuccess(a.attempt)))
          for (const { attempt, held } of ended) yield* engine.conclude(held, attempt, restore)
        })
      })
    )
  }

  /** The payload of a message, or why it is not to be run. */
  private read(held: Held, restore: Restore): Effect.Effect<Readable | Attempt> {
    const crashed = this.engine.crashed(held)
    if (crashed !== undefined) return Effect.succeed(crashed)
    return Effect.map(Effect.exit(restore(this.engine.work.decode(held.delivery.message))), (exit) => {
      if (Exit.isSuccess(exit)) return { held, value: exit.value }
      const failed = exit.cause.reasons.find((reason) => reason._tag === "Fail")
      return failed === undefined ? { _tag: "Handled", exit } : { _tag: "NotDecoded", error: failed.error }
    })
  }

  /** Runs the handler; answers how the attempt at each message ended. */
  private runBatch(readable: ReadonlyArray<Readable>, restore: Restore): Effect.Effect<(index: number) => Attempt> {
    const { timeout } = this.engine.settings
    const runsIn = (fiber: Fiber.Fiber<unknown, unknown>) => {
      for (const { held } of readable) held.fiber = fiber
    }
    const items = readable.map(({ held, value }) => ({ value, message: held.envelope }))
    const handled = Effect.map(
      Effect.exit(Effect.scoped(Effect.suspend(() => this.handle(items)))),
      (exit) =>
        (index: number): Attempt => ({ _tag: "Handled", exit: exitOf(exit, index, items.length) })
    )
    const timed =
      timeout === undefined
        ? handled
        : Effect.timeoutOrElse(inOwnFiber(handled, runsIn), {
            duration: timeout,
            orElse: () => Effect.succeed((): Attempt => ({ _tag: "TimedOut" }))
          })
    return Effect.map(Effect.exit(restore(timed)), (exit) =>
      Exit.isSuccess(exit) ? exit.value : (): Attempt => ({ _tag: "Handled", exit })
    )
  }
}

const isSuccess = (attempt: Attempt): boolean => attempt._tag === "Handled" && Exit.isSuccess(attempt.exit)

/** What became of one message of a batch. */
const exitOf = (exit: Exit.Exit<unknown, unknown>, index: number, size: number): Exit.Exit<unknown, unknown> => {
  if (Exit.isFailure(exit) || exit.value === undefined || !Array.isArray(exit.value)) return exit
  if (exit.value.length !== size) {
    return Exit.die(new Error(`the handler of a batch of ${size} answered ${exit.value.length} results`))
  }
  const result: unknown = exit.value[index]
  if (!Result.isResult(result))
    return Exit.die(new Error("the handler of a batch answered something else than results"))
  return Result.isSuccess(result) ? Exit.succeed(result.success) : Exit.fail(result.failure)
}
