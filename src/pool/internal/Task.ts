/**
 * The record of one task: what to run, how far it has come, and how it ended. It is also the handle that `submit` returns.
 *
 * ```text
 *   blocked ──place free──▶ queued ──slot free──▶ running ──ended, finalizers included──▶ settled
 *      │ gives up: never accepted  │ cancelled, expired, dropped                              ▲
 *      ▼                           └──────────────────────────────────────────────────────────┘
 *   (nothing recorded)
 * ```
 *
 * A million of these may be queued, so what few tasks need is kept in {@link Extra}.
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { Engine } from "./Engine.ts"
import type { Key } from "./Keys.ts"
import type { Run } from "./Run.ts"
import type { Timer } from "./Timers.ts"

/** An effect whose types the caller's signature has already checked; the engine only runs it. */
export type AnyEffect = Effect.Effect<unknown, unknown>
/** The same for its exit. */
export type AnyExit = Exit.Exit<unknown, unknown>

/** `New` is a task that no pool has accepted: not yet, or never. */
export const State = { New: 0, Blocked: 1, Queued: 2, Running: 3, Settled: 4 } as const
export type State = (typeof State)[keyof typeof State]

/** The bits of {@link Task.bits} that hold the state; the others are flags. */
const stateBits = 7

/** What is noted of a task beside its state, a bit each. */
export const Flag = {
  /** Its `timeout` has passed. */
  TimedOut: 8,
  /** It holds its slot although it was told to stop. */
  Overrunning: 16,
  /** The pool's shutdown told it to stop, so an interruption is the pool's doing. */
  ShutDown: 32,
  /** Its body has ended; finalizers or `onFailure` are running, which nothing may interrupt. */
  Ending: 64,
  /** Somebody was given a handle and may still read the result. */
  Handle: 128,
  /** Somebody saw the result, or waits for it and will. */
  Read: 256,
  /** Its producer waits for a place among the tasks of its key, not for one in the whole backlog. */
  BlockedByKey: 512,
  /** Its `onFailure` has been called. */
  Told: 1024,
  /** Its run has begun: it has one until it is released. */
  Begun: 2048,
  /** It has succeeded, and of the result only the value is kept. */
  Succeeded: 4096
} as const

/** What a task carries only when an option or a watched registry asks for it. */
export interface Extra {
  /** The number of the task in its pool, set when the task is made. */
  sequence: number
  readonly name: string | undefined
  readonly key: string | undefined
  readonly priority: number
  readonly weight: number
  /** Milliseconds. */
  readonly timeout: number | undefined
  /** Milliseconds. */
  readonly expiresIn: number | undefined
  readonly onFailure: ((cause: Cause.Cause<unknown>) => AnyEffect) | undefined
  /** Time of submission on the pool's clock; only while the registry is watched. */
  readonly submittedAt: number | undefined
  readonly site: string | undefined
  timer: Timer | undefined
  /** What is known of its key, from its acceptance on. */
  lane: Key | undefined
}

/** Is told of the result; answers whether somebody has thereby seen it. */
type Observer = (exit: AnyExit) => boolean

/**
 * Eight fields, and each of them counts: a producer may keep a million handles, and the time that a task takes grows with
 * what the garbage collector has to copy for it. So fields that are never needed at the same time share a place.
 */
export class Task {
  /** State and flags. */
  private bits: number
  /** The effect until the task is settled; then the value of its success, or else its exit. */
  private body: unknown
  /** The context of its submitter, from its start on the run that has it, and nothing once it has ended. */
  private home: Context.Context<never> | Run | undefined
  /** Told of the result, in order; one or many, since nearly always it is one. */
  private observers: Observer | Array<Observer> | undefined = undefined
  prev: Task | undefined = undefined
  next: Task | undefined = undefined
  readonly engine: Engine
  /** Its number, or where it carries more than that, what it carries. */
  private label: number | Extra

  constructor(
    engine: Engine,
    label: number | Extra,
    effect: AnyEffect | undefined,
    context: Context.Context<never> | undefined,
    flags: number
  ) {
    this.bits = flags
    this.body = effect
    this.home = context
    this.engine = engine
    this.label = label
  }

  /** The record of one that ran in place is that of another now. Its state is among the flags. */
  reuse(sequence: number, context: Context.Context<never>, flags: number): void {
    this.label = sequence
    this.home = context
    this.bits = flags
  }

  get state(): State {
    // The constructor and the setter let nothing else into these bits.
    return (this.bits & stateBits) as State
  }

  set state(state: State) {
    this.bits = (this.bits & ~stateBits) | state
  }

  has(flag: number): boolean {
    return (this.bits & flag) !== 0
  }

  mark(flag: number): void {
    this.bits |= flag
  }

  unmark(flag: number): void {
    this.bits &= ~flag
  }

  /** What to run. Only to be asked for before it is settled. */
  get effect(): AnyEffect {
    // Nothing else is there before `settle` or `succeed`.
    return this.body as AnyEffect
  }

  set effect(effect: AnyEffect) {
    this.body = effect
  }

  /** How it ended, from the moment the outcome is recorded. */
  get result(): AnyExit | undefined {
    if ((this.bits & stateBits) !== State.Settled) return undefined
    // `settle` has put an exit there where it is not the value of a success.
    return this.has(Flag.Succeeded) ? Exit.succeed(this.body) : (this.body as AnyExit)
  }

  get extra(): Extra | undefined {
    return typeof this.label === "number" ? undefined : this.label
  }

  get sequence(): number {
    return typeof this.label === "number" ? this.label : this.label.sequence
  }

  /** The context of its submitter, until it has ended. */
  get context(): Context.Context<never> | undefined {
    return this.run?.context ?? (this.home as Context.Context<never> | undefined)
  }

  /** What it has while it runs; undefined before and after. */
  get run(): Run | undefined {
    // `begin` has put it there, and `release` takes it away.
    return this.has(Flag.Begun) ? (this.home as Run | undefined) : undefined
  }

  /** The fiber that runs it, from the first operation of that on. */
  get fiber(): Fiber.Fiber<unknown, unknown> | undefined {
    return this.run?.fiber
  }

  begin(run: Run): void {
    this.home = run
    this.bits |= Flag.Begun
  }

  get id(): string {
    return `${this.engine.name}#${this.sequence}`
  }

  get name(): string {
    return this.extra?.name ?? this.id
  }

  get await(): AnyEffect {
    // A success is its own effect; only failures have to be noted as read.
    if (this.has(Flag.Succeeded)) return Exit.succeed(this.body)
    return Effect.withFiber((fiber) => this.engine.awaitTask(this, fiber))
  }

  get exit(): Effect.Effect<AnyExit> {
    return Effect.exit(this.await)
  }

  get poll(): Effect.Effect<Option.Option<AnyExit>> {
    return Effect.sync(() => {
      const result = this.result
      if (result === undefined) return Option.none()
      this.engine.ending.read(this)
      return Option.some(result)
    })
  }

  get cancel(): Effect.Effect<void> {
    return Effect.withFiber((fiber) => this.engine.cancelAndWait(this, fiber))
  }

  observe(observer: Observer): void {
    const current = this.observers
    if (current === undefined) this.observers = observer
    else if (typeof current === "function") this.observers = [current, observer]
    else current.push(observer)
  }

  unobserve(observer: Observer): void {
    const current = this.observers
    if (current === observer) this.observers = undefined
    else if (Array.isArray(current)) {
      const index = current.indexOf(observer)
      if (index >= 0) current.splice(index, 1)
      if (current.length === 0) this.observers = undefined
    }
  }

  /** Settled with a success. The value is kept without its exit: a million settled handles are then half as large. */
  succeed(value: unknown): void {
    this.bits = (this.bits & ~stateBits) | State.Settled | Flag.Succeeded
    this.body = value
  }

  /** Keeps the result and tells those who wait for it. Returns whether anybody has seen it. */
  settle(result: AnyExit): boolean {
    if (Exit.isSuccess(result)) this.succeed(result.value)
    else {
      this.state = State.Settled
      this.body = result
    }
    const observers = this.observers
    if (observers === undefined) return false
    this.observers = undefined
    if (typeof observers === "function") return observers(result)
    let seen = false
    for (const observer of observers) seen = observer(result) || seen
    return seen
  }

  /** Lets go of all that the run needed. An abandoned task keeps it until it really ends. */
  release(): void {
    this.home = undefined
  }
}

export const priorityOf = (task: Task): number => task.extra?.priority ?? 0
export const weightOf = (task: Task): number => task.extra?.weight ?? 1

/** The task whose code is running: set for the task's fiber, inherited by the fibers that it forks. */
export const CurrentTask: Context.Reference<Task | undefined> = Context.Reference<Task | undefined>(
  "millrace/CurrentTask",
  { defaultValue: () => undefined }
)

/**
 * The task whose own fiber this is, or whose `onFailure` runs in it. A fiber that a task forked is not the task: its waiting
 * need not stop the task.
 */
export const taskOf = (fiber: Fiber.Fiber<unknown, unknown>): Task | undefined => {
  const task = fiber.getRef(CurrentTask)
  if (task === undefined) return undefined
  return task.fiber === fiber || task.engine.ending.handlers.has(fiber) ? task : undefined
}
