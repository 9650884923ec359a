/**
 * Group commit: what waits in one turn of the event loop is done in one transaction, and then each caller gets its answer.
 *
 * ```text
 *   publish ─┐                       ┌─▶ answers
 *   settle  ─┼─▶ tasks ─▶ BEGIN … COMMIT
 *   renew   ─┘              ▲        └─▶ messages
 *   take ───────▶ claimants ┘   (in the transaction that brings them something)
 * ```
 *
 * A transaction runs within one turn, so the connection is never found inside of one. It is all or nothing: where one
 * operation fails, nothing of the others has happened, and each of them is done again alone. What changes in memory changes
 * after the commit.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Semaphore from "effect/Semaphore"
import type { SqlClient } from "effect/sql/SqlClient"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { About } from "./Failure.ts"
import { closed, fromCause, isBusy, locked, moved, rejected } from "./Failure.ts"
import type { Store } from "./Store.ts"

/** Something that happens in a transaction. */
interface Unit {
  /** Changes the file. May throw, and may be called again in another transaction. */
  readonly run: (store: Store) => void
  /** It is in the file: changes what is in memory. */
  readonly committed: () => void
  /** Tells who waits for it; that fiber may run at once. */
  readonly answer: () => void
  readonly fail: (error: BrokerError) => void
}

interface Task extends Unit {
  readonly about: About
  readonly weight: number
  readonly bytes: number
  readonly since: number
  cancelled: boolean
}

/** A `take` that waits for messages of a queue. */
export interface Claimant extends Unit {
  readonly about: About
  readonly queue: number
  /** How many rows it has taken in this transaction. */
  readonly claimed: number
  /** It has not seen all that it could have taken. */
  readonly more: boolean
  /** When a delayed message of its queue is due next, in the time of the file. */
  readonly due: number | undefined
}

interface Waiting {
  /** There may be something for it, since this monotonic time; `undefined` where there is nothing. */
  since: number | undefined
  /** When there will be something, in the time of the file. */
  due: number | undefined
}

/** What one transaction may do, so that it keeps the event loop for some milliseconds at most. */
const mostWeight = 1024
const mostBytes = 8 * 1024 * 1024

type Outcome = "done" | "busy" | { readonly cause: unknown }

export interface PumpOptions {
  /** Milliseconds after which an operation that waits for the write lock gives up. */
  readonly lockTimeout: number
  /** The key under which a fiber carries an open transaction of the layer's own client. */
  readonly transaction: SqlClient["transactionService"]
}

export class Pump {
  readonly store: Store
  private readonly lock: Semaphore.Semaphore
  private readonly context: Context.Context<never>
  private readonly options: PumpOptions
  private tasks: Array<Task> = []
  /** Those of the transaction that is being done. */
  private current: ReadonlyArray<Task> = []
  private readonly waiting = new Map<Claimant, Waiting>()
  private running = false
  private closing = false
  private readonly idle = new Set<() => void>()
  private alarm: Fiber.Fiber<void> | undefined = undefined
  private alarmAt = Number.POSITIVE_INFINITY

  constructor(store: Store, lock: Semaphore.Semaphore, context: Context.Context<never>, options: PumpOptions) {
    this.store = store
    this.lock = lock
    this.context = context
    this.options = options
  }

  private get filename(): string {
    return this.store.database.filename
  }

  /**
   * Runs an operation in the next transaction. Interrupted before that it does not happen; `committed` is called whether or
   * not somebody still waits for the answer.
   */
  request<A>(
    about: About,
    size: { readonly weight: number; readonly bytes?: number },
    run: (store: Store) => A,
    committed: (result: A) => void = () => {}
  ): Effect.Effect<A, BrokerError> {
    return Effect.callback<A, BrokerError>((resume) => {
      const refusal = this.refusal(about)
      if (refusal !== undefined) return resume(Effect.fail(refusal))
      // Set by `run`, which comes before whatever reads it.
      let result!: A
      const task: Task = {
        about,
        weight: size.weight,
        bytes: size.bytes ?? 0,
        since: this.store.clock.monotonic(),
        cancelled: false,
        run: (store) => {
          result = run(store)
        },
        committed: () => committed(result),
        answer: () => resume(Effect.succeed(result)),
        fail: (error) => resume(Effect.fail(error))
      }
      this.tasks.push(task)
      this.kick()
      return Effect.sync(() => {
        task.cancelled = true
      })
    })
  }

  /** Fails where the fiber holds the write lock itself, through an open transaction of the layer's client. */
  outsideTransaction<A>(about: About, effect: Effect.Effect<A, BrokerError>): Effect.Effect<A, BrokerError> {
    return Effect.withFiber((fiber) =>
      Context.getOrUndefined(fiber.context, this.options.transaction) === undefined
        ? effect
        : Effect.fail(
            rejected(
              about,
              "Refused",
              `Inside sql.withTransaction only publish and declare work: "${about.operation}" would wait for the write lock that this transaction holds. Call it after the transaction.`
            )
          )
    )
  }

  /** Why nothing can be asked any more, if so. */
  refusal(about: About): BrokerError | undefined {
    return this.closing ? closed(about, this.filename) : undefined
  }

  /** Waits for messages, until it is dismissed or has failed. */
  enlist(claimant: Claimant): void {
    const refusal = this.refusal(claimant.about)
    if (refusal !== undefined) return claimant.fail(refusal)
    this.waiting.set(claimant, { since: this.store.clock.monotonic(), due: undefined })
    this.kick()
  }

  dismiss(claimant: Claimant): void {
    this.waiting.delete(claimant)
  }

  get hasWaiting(): boolean {
    return this.waiting.size > 0
  }

  /** There may be something for those who wait: all of them, or those of one queue. */
  wake(queue?: number): void {
    let any = false
    for (const [claimant, waiting] of this.waiting) {
      if (queue !== undefined && claimant.queue !== queue) continue
      waiting.since ??= this.store.clock.monotonic()
      any = true
    }
    if (any) this.kick()
  }

  /** There may be something for this one, where it waits. */
  want(claimant: Claimant): void {
    const waiting = this.waiting.get(claimant)
    if (waiting === undefined) return
    waiting.since ??= this.store.clock.monotonic()
    this.kick()
  }

  /** Takes nothing new and waits until all that was taken has its answer. */
  readonly close: Effect.Effect<void> = Effect.callback<void>((resume) => {
    this.closing = true
    this.disarm()
    this.failWaiting((about) => closed(about, this.filename))
    if (this.running) this.idle.add(() => resume(Effect.void))
    else resume(Effect.void)
  })

  private get hasWork(): boolean {
    if (this.tasks.length > 0) return true
    for (const { since } of this.waiting.values()) if (since !== undefined) return true
    return false
  }

  private kick(): void {
    if (this.running || !this.hasWork) return
    this.running = true
    Effect.runForkWith(this.context)(this.loop)
  }

  /** One fiber for as long as there is something to do. */
  private readonly loop: Effect.Effect<void> = Effect.suspend(() => {
    let tries = 0
    const turn: Effect.Effect<void> = Effect.suspend(() => {
      if (!this.hasWork) {
        this.running = false
        for (const resume of this.idle) resume()
        this.idle.clear()
        return Effect.void
      }
      return Effect.flatMap(this.locked, (outcome) => {
        tries = outcome === "busy" ? tries + 1 : 0
        // Whoever has the lock keeps it for the length of a transaction, and often takes it again at once.
        const pause = Math.min(20, 1.5 ** tries) * (0.5 + Math.random())
        return Effect.andThen(outcome === "busy" ? Effect.sleep(Duration.millis(pause)) : Effect.yieldNow, turn)
      })
    })
    // What is still to come in this turn of the event loop is part of the first transaction.
    return Effect.catchDefect(Effect.andThen(Effect.yieldNow, turn), (defect) => Effect.sync(() => this.broke(defect)))
  })

  /** A transaction, when no other one of this process is open; `busy` where the lock could not be had in time. */
  private readonly locked: Effect.Effect<"done" | "busy"> = Effect.suspend(() => {
    const batch = Effect.sync(() => this.batch())
    return Effect.flatMap(this.lock.withPermitsIfAvailable(1)(batch), (outcome) => {
      if (outcome._tag === "Some") return this.afterBatch(outcome.value)
      const patience = Math.max(1, this.oldest() + this.options.lockTimeout - this.store.clock.monotonic())
      return Effect.flatMap(Effect.timeoutOption(this.lock.withPermit(batch), Duration.millis(patience)), (outcome) =>
        this.afterBatch(outcome._tag === "Some" ? outcome.value : "busy")
      )
    })
  })

  private afterBatch(outcome: "done" | "busy"): Effect.Effect<"done" | "busy"> {
    if (outcome === "busy") this.giveUp()
    this.arm()
    return Effect.succeed(outcome)
  }

  /** A bug of ours must leave nobody waiting. */
  private broke(defect: unknown): void {
    this.running = false
    const units = [...this.current, ...this.tasks, ...this.waiting.keys()]
    this.tasks = []
    this.waiting.clear()
    for (const unit of units) unit.fail(rejected(unit.about, "Refused", `The broker is broken: ${defect}`, defect))
    for (const resume of this.idle) resume()
    this.idle.clear()
  }

  /** Fails those who wait for messages, because none will come. */
  failWaiting(error: (about: About) => BrokerError): void {
    for (const claimant of [...this.waiting.keys()]) {
      this.waiting.delete(claimant)
      claimant.fail(error(claimant.about))
    }
  }

  private oldest(): number {
    let oldest = this.tasks[0]?.since ?? Number.POSITIVE_INFINITY
    for (const { since } of this.waiting.values()) if (since !== undefined) oldest = Math.min(oldest, since)
    return oldest
  }

  /** The lock was not to be had: those who have waited for it too long are told so. */
  private giveUp(): void {
    const { lockTimeout } = this.options
    const limit = this.store.clock.monotonic() - lockTimeout
    const expired = this.tasks.filter((task) => task.since <= limit)
    if (expired.length > 0) this.tasks = this.tasks.filter((task) => task.since > limit)
    for (const task of expired) if (!task.cancelled) task.fail(locked(task.about, this.filename, lockTimeout))
    for (const [claimant, { since }] of [...this.waiting]) {
      if (since === undefined || since > limit) continue
      this.waiting.delete(claimant)
      claimant.fail(locked(claimant.about, this.filename, lockTimeout))
    }
  }

  /** As many tasks as fit into one transaction. */
  private collect(): Array<Task> {
    let count = 0
    let weight = 0
    let bytes = 0
    for (const task of this.tasks) {
      if (count > 0 && (weight + task.weight > mostWeight || bytes + task.bytes > mostBytes)) break
      count++
      if (task.cancelled) continue
      weight += task.weight
      bytes += task.bytes
    }
    return this.tasks.splice(0, count).filter((task) => !task.cancelled)
  }

  private batch(): "done" | "busy" {
    const tasks = this.collect()
    this.current = tasks
    if (tasks.length === 0 && !this.isAnythingThere()) return "done"
    const outcome = this.attempt(tasks)
    if (outcome === "done") return "done"
    if (outcome === "busy") {
      this.tasks.unshift(...tasks)
      return "busy"
    }
    return this.alone(tasks)
  }

  /** Each by itself, because they failed together. */
  private alone(tasks: ReadonlyArray<Task>): "done" | "busy" {
    for (const [index, task] of tasks.entries()) {
      const outcome = this.attempt([task], [])
      if (outcome === "busy") {
        this.tasks.unshift(...tasks.slice(index))
        return "busy"
      }
      if (outcome !== "done") task.fail(fromCause(task.about, this.filename, outcome.cause))
    }
    for (const [claimant, { since }] of [...this.waiting]) {
      if (since === undefined) continue
      const outcome = this.attempt([], [claimant])
      if (outcome === "busy") return "busy"
      if (outcome === "done") continue
      this.waiting.delete(claimant)
      claimant.fail(fromCause(claimant.about, this.filename, outcome.cause))
    }
    return "done"
  }

  /** One transaction; without `claimants`, with those that wait and may find something. */
  private attempt(tasks: ReadonlyArray<Task>, claimants?: ReadonlyArray<Claimant>): Outcome {
    const { store } = this
    const { db } = store.database
    const claims: Array<Claimant> = []
    try {
      store.database.sql("BEGIN IMMEDIATE").run()
      store.enter()
      for (const task of tasks) task.run(store)
      let claimed = 0
      for (const claimant of claimants ?? this.candidates()) {
        if (claimed >= mostWeight) break
        claimant.run(store)
        claims.push(claimant)
        claimed += claimant.claimed
      }
      store.leave()
      store.database.sql("COMMIT").run()
    } catch (cause) {
      if (db.isTransaction) db.exec("ROLLBACK")
      store.forget()
      return isBusy(cause) ? "busy" : { cause }
    }
    this.finish(tasks, claims)
    return "done"
  }

  private candidates(): ReadonlyArray<Claimant> {
    const { touched } = this.store
    const candidates: Array<Claimant> = []
    for (const [claimant, { since }] of this.waiting) {
      if (since !== undefined || touched.has(claimant.queue)) candidates.push(claimant)
    }
    return candidates
  }

  private finish(tasks: ReadonlyArray<Task>, claims: ReadonlyArray<Claimant>): void {
    const { clock, database, touched } = this.store
    // Those that had their turn stand behind the others next time.
    for (const claimant of claims) this.waiting.delete(claimant)
    if (!database.isInPlace()) {
      // What was claimed is claimed in the file that is away, and ours should it come back: else nobody would handle it.
      for (const claimant of claims) claimant.committed()
      for (const unit of [...tasks, ...claims]) unit.fail(moved(unit.about, this.filename))
      return
    }
    for (const waiting of this.waiting) if (touched.has(waiting[0].queue)) waiting[1].since ??= clock.monotonic()
    for (const claimant of claims) {
      this.waiting.set(claimant, { since: claimant.more ? clock.monotonic() : undefined, due: claimant.due })
    }
    for (const task of tasks) task.committed()
    for (const claimant of claims) claimant.committed()
    // From here on other fibers may run.
    for (const task of tasks) if (!task.cancelled) task.answer()
    for (const claimant of claims) claimant.answer()
  }

  /** Whether one of those who wait has something to claim; read without the write lock, which others need. */
  private isAnythingThere(): boolean {
    let any = false
    for (const [claimant, waiting] of this.waiting) {
      if (waiting.since === undefined) continue
      if (this.look(claimant, waiting)) any = true
      else waiting.since = undefined
    }
    return any
  }

  private look({ queue }: Claimant, waiting: Waiting): boolean {
    const { clock, database } = this.store
    try {
      const ready = database
        .sql(
          `SELECT 1 FROM millrace_message WHERE queue = ?1 AND state = 0
           UNION ALL SELECT 1 FROM millrace_queue WHERE id = ?1 AND fill_next IS NOT NULL
           UNION ALL SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM millrace_queue WHERE id = ?1 AND topic IS NOT NULL)
           LIMIT 1`
        )
        .get(queue)
      if (ready !== undefined) return true
      waiting.due = database
        .sql<readonly [number]>(
          "SELECT visible_at FROM millrace_message WHERE queue = ? AND state = 2 ORDER BY visible_at LIMIT 1"
        )
        .get(queue)?.[0]
      return waiting.due !== undefined && waiting.due <= clock.now()
    } catch {
      // Whatever it is, the transaction meets it too and says so.
      return true
    }
  }

  /** Sleeps until the next delayed message is due. */
  private arm(): void {
    let at = Number.POSITIVE_INFINITY
    for (const { due } of this.waiting.values()) if (due !== undefined && due < at) at = due
    if (at === this.alarmAt) return
    this.disarm()
    if (at === Number.POSITIVE_INFINITY || this.closing) return
    this.alarmAt = at
    const sleep = Effect.sleep(Duration.millis(Math.max(1, at - this.store.clock.now())))
    this.alarm = Effect.runForkWith(this.context)(
      Effect.andThen(
        sleep,
        Effect.sync(() => this.rang())
      )
    )
  }

  private disarm(): void {
    const alarm = this.alarm
    this.alarm = undefined
    this.alarmAt = Number.POSITIVE_INFINITY
    alarm?.interruptUnsafe()
  }

  private rang(): void {
    // The fiber that calls this is the alarm, and is not to be interrupted by it.
    this.alarm = undefined
    this.ring()
  }

  /** Wakes those for whom a delayed message is due. */
  ring(): void {
    this.disarm()
    const { clock } = this.store
    const now = clock.now()
    for (const waiting of this.waiting.values()) {
      if (waiting.due !== undefined && waiting.due <= now) waiting.since ??= clock.monotonic()
    }
    this.kick()
    // A system timer may be early by a fraction of a millisecond.
    if (!this.running) this.arm()
  }
}
