/**
 * A worker pool fed by a broker: the parts of a consumer, and what happens to a delivery between them.
 *
 * ```text
 *   Subscription ──Intake──▶ pool (backlog, keys, slots) ──Attempts──▶ Verdict ──▶ Settler ──▶ Subscription
 *        │ lost              Lanes                                        │ dead letter
 *        └──Leases──▶ interrupts, forgets                                 └──▶ Driver.publish
 * ```
 */
import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { constVoid } from "effect/Function"
import * as Latch from "effect/Latch"
import type { WorkerPool } from "../../pool/WorkerPool.ts"
import type { Registry } from "../../registry/Registry.ts"
import { BrokerError, Rejected, Unavailable } from "../BrokerError.ts"
import type { DeliveryOutcome } from "../ConsumerReport.ts"
import type { Delivery, Driver, OutgoingMessage, Settled, Settlement, Subscription } from "../Driver.ts"
import type { Envelope } from "../Envelope.ts"
import { LeaseLost } from "../LeaseLost.ts"
import { bare, isTooLarge, terse } from "../shortened.ts"
import type { Undecodable } from "../TopicError.ts"
import type { Work } from "./Attempts.ts"
import { attempt } from "./Attempts.ts"
import { publishOne } from "./answers.ts"
import { insist } from "./backoff.ts"
import { ConsumerBooks } from "./ConsumerBooks.ts"
import type { ConsumerSettings } from "./ConsumerSettings.ts"
import { Held } from "./Held.ts"
import type { Lane } from "./Lanes.ts"
import { Lanes } from "./Lanes.ts"
import type { Restore } from "./Restore.ts"
import type { Settling } from "./Settler.ts"
import { Settler } from "./Settler.ts"
import type { Attempt, Decisions, Verdict } from "./Verdict.ts"
import { judge } from "./Verdict.ts"

export class ConsumerEngine {
  readonly held = new Map<Delivery, Held>()
  readonly books = new ConsumerBooks()
  readonly lanes = new Lanes()
  readonly settler: Settler
  /** Open while more may be taken. */
  readonly room = Latch.makeUnsafe(true)
  phase: "open" | "draining" | "closed" = "open"
  paused = false
  /** Handlers that may run at the same time. */
  concurrency: number
  /** Takes begun so far. */
  takes = 0
  /** Open when leases are to be looked at again. */
  readonly leases = Latch.makeUnsafe(false)
  /** When leases will be looked at in any case. */
  leasesSeenTo = Number.POSITIVE_INFINITY
  /** Whether a take waits for the broker. */
  taking = false
  /** Replaced when the consumer subscribes anew. */
  subscription: Subscription
  /** Told when a message stops the consumer. */
  onStop: (error: Undecodable) => void = () => {}
  readonly work: Work
  readonly settings: ConsumerSettings
  readonly driver: Driver
  readonly pool: WorkerPool
  readonly clock: Clock.Clock
  private readonly registry: Registry
  private readonly decisions: Decisions
  private readonly unknownVersions = new Set<number>()

  constructor(options: {
    readonly work: Work
    readonly settings: ConsumerSettings
    readonly decisions: Decisions
    readonly driver: Driver
    readonly pool: WorkerPool
    readonly clock: Clock.Clock
    readonly registry: Registry
    readonly subscription: Subscription
  }) {
    this.work = options.work
    this.settings = options.settings
    this.concurrency = options.settings.concurrency
    this.decisions = options.decisions
    this.driver = options.driver
    this.pool = options.pool
    this.clock = options.clock
    this.registry = options.registry
    this.subscription = options.subscription
    this.settler = new Settler(
      () => this.subscription,
      (settling, answer) => this.settled(settling, answer),
      (settle) => this.insist("settle", settle),
      () => this.now()
    )
  }

  get name(): string {
    return `${this.work.topic}/${this.work.group}`
  }

  /** Messages of which more may be held. */
  get free(): number {
    return this.settings.prefetch - this.held.size
  }

  /** Taken in batches: not for each place that becomes free, but before the handlers run out of work. */
  get wantsMore(): boolean {
    if (this.phase !== "open" || this.paused || this.lanes.pending > 0) return false
    if (this.free <= 0 || this.books.bytes >= this.settings.prefetchBytes) return false
    // What waits behind its key gives an idle handler nothing to do.
    if (this.settings.order === "key" && this.books.running < this.concurrency) return true
    // Nor does less than a batch.
    return this.books.queued < (this.settings.batch?.size ?? 1) || this.free * 2 >= this.settings.prefetch
  }

  now(): number {
    return Number(this.clock.monotonicTimeNanosUnsafe()) / 1_000_000
  }

  /** Registers what a take has brought; answers what can be run. The rest is given back. */
  admit(deliveries: ReadonlyArray<Delivery>, take: number): ReadonlyArray<Held> {
    const runnable: Array<Held> = []
    for (const delivery of deliveries) {
      const { id, key } = delivery.message.envelope
      const lane = this.settings.order === "key" && key !== undefined ? this.lanes.enter(key) : undefined
      const inOrder = lane === undefined || lane.accepts(id, take)
      const held = new Held(delivery, lane)
      this.held.set(delivery, held)
      this.books.enter(held)
      // Not every message comes with its whole lease.
      if (held.renewAt(this.settings.lease) < this.leasesSeenTo) this.leases.openUnsafe()
      if (!inOrder || this.phase !== "open") this.giveBack(held)
      else runnable.push(held)
    }
    return runnable
  }

  /** Hands a delivery to the pool. */
  start(held: Held): Effect.Effect<void> {
    const key = held.lane?.key
    // A name costs something, and is read by those who watch.
    const options = this.registry.watched ? { name: held.envelope.id, key } : key === undefined ? undefined : { key }
    return Effect.match(this.pool.submit(this.process(held), options), {
      onFailure: () => this.giveBack(held),
      onSuccess: (handle) => {
        held.handle = handle
      }
    })
  }

  /** The whole of a delivery in its slot. It settles its message itself, so that its task never fails. */
  process(held: Held): Effect.Effect<void> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.withFiber((fiber) => {
        if (!this.begin(held, fiber)) return Effect.void
        const crashed = this.crashed(held)
        if (crashed !== undefined) return this.conclude(held, crashed, restore)
        return Effect.flatMap(
          Effect.exit(
            restore(
              attempt(this.work, held.delivery.message, held.envelope, this.settings.timeout, (handler) => {
                held.fiber = handler
              })
            )
          ),
          (exit) => {
            held.fiber = fiber
            return this.conclude(held, attemptOf(exit), restore)
          }
        )
      })
    )
  }

  /** Its turn has come; false where it is not to be run any more. */
  begin(held: Held, fiber: Fiber.Fiber<unknown, unknown>, batch?: ReadonlyArray<Held>): boolean {
    if (held.state !== "queued") return false
    if (this.phase !== "open") {
      this.giveBack(held)
      return false
    }
    held.fiber = fiber
    held.batch = batch
    this.books.move(held, "running")
    if (this.wantsMore) this.room.openUnsafe()
    return true
  }

  /** Whether this fiber handles a message. */
  handles(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return [...this.held.values()].some((held) => held.fiber === fiber)
  }

  /** Whether it was delivered so often that it may be what kills the process. */
  crashed({ delivery: { deliveries } }: Held): Attempt | undefined {
    return deliveries !== undefined && deliveries > this.settings.maxDeliveries
      ? { _tag: "Crashed", deliveries }
      : undefined
  }

  /** The attempt is over: decides, and does what was decided. */
  conclude(held: Held, attempt: Attempt, restore: Restore): Effect.Effect<void> {
    if (held.lost !== undefined) return Effect.sync(() => this.endLost(held))
    if (attempt._tag === "Handled") {
      if (Exit.isSuccess(attempt.exit)) {
        this.settle(held, { _tag: "Acknowledge", delivery: held.delivery }, "acknowledged")
        return Effect.void
      }
      // An interruption while the consumer closes is the closing's, never an error of the handler.
      if (this.phase !== "open" && Exit.hasInterrupts(attempt.exit)) {
        this.giveBack(held)
        return Effect.void
      }
    }
    // A schedule may take its time, or not end at all.
    return Effect.flatMap(
      Effect.exit(restore(judge(this.settings, this.decisions, held.envelope, attempt))),
      (exit) => {
        if (held.lost !== undefined) return Effect.sync(() => this.endLost(held))
        if (Exit.isSuccess(exit)) return this.apply(held, exit.value, restore)
        if (this.phase === "open") return this.elsewhere(held, this.conclude(held, attempt, restore))
        return Effect.sync(() => this.giveBack(held))
      }
    )
  }

  /**
   * The program has interrupted the fiber of its handler, and nothing can be waited for in there any more. Given back, the
   * message could come again for ever; so another fiber decides.
   */
  private elsewhere(held: Held, conclusion: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.flatMap(Effect.forkDetach(Effect.uninterruptible(conclusion)), (fiber) => {
      held.fiber = fiber
      return Effect.asVoid(Fiber.await(fiber))
    })
  }

  private apply(held: Held, verdict: Verdict, restore: Restore): Effect.Effect<void> {
    const { delivery } = held
    switch (verdict._tag) {
      case "Acknowledge":
        this.settle(held, { _tag: "Acknowledge", delivery }, "acknowledged")
        return Effect.void
      case "Drop":
        this.settle(held, { _tag: "Acknowledge", delivery }, "dropped")
        return Effect.logInfo(`Message ${held.envelope.id} of ${this.name} was dropped: ${verdict.reason}`)
      case "Retry": {
        const { countsAttempt, delay, envelope } = verdict
        const outcome = countsAttempt ? "retried" : "released"
        this.settle(held, { _tag: "Retry", delivery, delay, envelope }, outcome)
        return countsAttempt ? Effect.void : this.tellUnknownVersion(envelope)
      }
      case "DeadLetter":
        return this.setAside(held, verdict, restore)
      case "Stop":
        this.onStop(verdict.error)
        this.giveBack(held)
        return Effect.void
    }
  }

  /**
   * Writes the dead letter, and acknowledges when the broker has it. The decision stands: it is written again until it is
   * there, in the slot of the message and in front of its key.
   */
  private setAside(held: Held, verdict: Verdict & { _tag: "DeadLetter" }, restore: Restore): Effect.Effect<void> {
    const { topic, group } = this.work
    const letter = (envelope: Envelope): OutgoingMessage => ({
      envelope,
      body: held.delivery.message.body,
      destination: { _tag: "DeadLetters", topic, group }
    })
    const what = `write the dead letter of message ${held.envelope.id}`
    const publish = (envelope: Envelope) => publishOne(this.driver, letter(envelope), constVoid)
    // What the message has gathered must not keep it here for ever, and what it has brought along neither.
    const write = this.insistInTime(what, () =>
      publish(verdict.envelope).pipe(
        Effect.catchIf(isTooLarge, () => publish(terse(verdict.envelope))),
        Effect.catchIf(isTooLarge, () => publish(bare(verdict.envelope)))
      )
    )
    const { onDeadLetter } = this.decisions
    const tell =
      onDeadLetter === undefined
        ? Effect.void
        : Effect.suspend(() => onDeadLetter(verdict.envelope)).pipe(
            Effect.catchCause((cause) => Effect.logError(`onDeadLetter of consumer ${this.name} failed`, cause))
          )
    return Effect.flatMap(Effect.exit(restore(Effect.andThen(write, tell))), (exit) => {
      this.problems.delete(what)
      if (held.lost === undefined && Exit.isSuccess(exit)) {
        this.settle(held, { _tag: "Acknowledge", delivery: held.delivery }, "deadLettered")
        const { death, id } = verdict.envelope
        const cause = death?.cause.split("\n", 1)[0]
        return Effect.logWarning(`Message ${id} of ${this.name} is a dead letter now (${death?.reason}): ${cause}`)
      }
      if (held.lost === undefined) this.giveBack(held)
      else this.endLost(held)
      return Effect.void
    })
  }

  /** Said once for each version, or a message that nobody can read would go back and forth for ever without a word. */
  private tellUnknownVersion({ id, version }: Envelope): Effect.Effect<void> {
    if (this.unknownVersions.has(version) || this.unknownVersions.size >= mostVersions) return Effect.void
    this.unknownVersions.add(version)
    return Effect.logWarning(
      `Message ${id} of ${this.name} has schema version ${version}, which is not known here: such messages are given back every ${this.settings.unknownVersionDelay} ms, until a newer consumer takes them or this one has an upcast`
    )
  }

  /** Gives it back as it was. */
  giveBack(held: Held): void {
    this.settle(held, { _tag: "Release", delivery: held.delivery }, "released")
  }

  settle(held: Held, settlement: Settlement, outcome: DeliveryOutcome): void {
    // Late: the consumer has closed without it, or has settled it as a part of closing.
    if (this.phase === "closed" || held.state === "settling" || held.state === "ended") return
    const lane = settlement._tag === "Acknowledge" ? undefined : held.lane
    const ran = held.state === "running"
    this.unqueue(held)
    this.books.move(held, "settling")
    lane?.ask()
    this.settler.add({ held, settlement, outcome, lane })
    // Behind one that was lost too: while its handler had not stopped, the broker may have handed them over once more.
    if (lane !== undefined && ran) this.giveBackBehind(held, lane)
  }

  /** Of this key, nothing may run before what is on its way back. */
  private giveBackBehind(first: Held, lane: Lane): void {
    const behind: Array<Held> = []
    let found = false
    for (const held of this.held.values()) {
      if (held === first) found = true
      else if (found && held.lane === lane && held.state === "queued") behind.push(held)
    }
    lane.expect(
      [first, ...behind].map(({ envelope }) => envelope.id),
      this.takes + 1
    )
    for (const held of behind) this.giveBack(held)
  }

  private settled({ held, lane, outcome }: Settling, answer: Settled): void {
    lane?.answered(this.takes + 1)
    this.end(held, answer === "Lost" ? "lost" : outcome, answer !== "Unconfirmed")
  }

  /** Records the one outcome of a delivery. */
  end(held: Held, outcome: DeliveryOutcome, confirmed: boolean): void {
    if (held.state === "ended") return
    this.unqueue(held)
    this.books.end(held, outcome, confirmed)
    this.held.delete(held.delivery)
    held.fiber = undefined
    held.batch = undefined
    held.handle = undefined
    if (held.lane !== undefined) this.lanes.leave(held.lane, this.takes)
    if (this.wantsMore) this.room.openUnsafe()
  }

  /** What waits behind its key and is not to be run must not fill the backlog. (The task of a batch is not its own.) */
  private unqueue({ handle, state }: Held): void {
    if (state === "queued" && handle !== undefined && this.settings.batch === undefined) Effect.runFork(handle.cancel)
  }

  /** A delivery is not ours any more: its handler is interrupted with the cause, and nothing is settled. */
  lose(held: Held, reason: LeaseLost["reason"]): void {
    if (held.lost !== undefined || held.state === "ended" || held.state === "settling") return
    held.lost = { id: held.envelope.id, topic: this.work.topic, group: this.work.group, reason }
    // It comes again, and those behind it are not to overtake it.
    if (held.lane !== undefined) this.giveBackBehind(held, held.lane)
    if (held.state === "queued") return this.endLost(held)
    // Others of its batch are handled by the same fiber; it goes on as long as one of them is ours.
    if (held.batch?.some(({ lost, state }) => lost === undefined && state === "running")) return
    held.fiber?.interruptUnsafe(undefined, Context.make(LeaseLost, held.lost))
  }

  /**
   * Records the loss when nothing of ours works on the message any more. Given up before its lease has ended, it may still be
   * ours to the broker, which would then hand over those behind it: so it is given back.
   */
  private endLost(held: Held): void {
    if (held.lost?.reason === "expired") this.settle(held, { _tag: "Release", delivery: held.delivery }, "lost")
    else this.end(held, "lost", true)
  }

  /** What the broker fails at and last failed with, until that works again. */
  private readonly problems = new Map<string, BrokerError>()

  /** The latest problem that lasts. */
  get problem(): BrokerError | undefined {
    return [...this.problems.values()].at(-1)
  }

  /** The broker has refused a take, and would again: another subscription may be better off. */
  get isRefusedToTake(): boolean {
    return !this.taking && this.problems.get("take messages")?.reason._tag === "Rejected"
  }

  /** Does it until it works, and says so. */
  insist<A>(what: string, operation: () => Effect.Effect<A, BrokerError>): Effect.Effect<A> {
    return Effect.tap(
      insist(operation, (error) => this.trouble(what, error)),
      () => this.works(what)
    )
  }

  /** The same for what a broker answers at once or, when it does not answer, can be asked again. */
  insistInTime<A>(what: string, operation: () => Effect.Effect<A, BrokerError>): Effect.Effect<A> {
    const { stallAfter } = this.settings
    const orElse = () => Effect.fail(this.silent(what, stallAfter))
    return this.insist(what, () => Effect.timeoutOrElse(operation(), { duration: stallAfter, orElse }))
  }

  silent(operation: string, millis: number): BrokerError {
    const detail = `no answer for ${Math.round(millis / 1000)} s; look whether the broker can be reached and has room`
    const { driver, work } = this
    return new BrokerError({
      broker: driver.system,
      operation,
      topic: work.topic,
      reason: new Unavailable({ detail })
    })
  }

  /** The broker does not do what it should: said once until it works again. */
  trouble(what: string, error: unknown): Effect.Effect<void> {
    return Effect.suspend(() => {
      const known = this.problems.has(what)
      const { driver, work } = this
      const detail = `the driver died, which is a bug of the driver: ${String(error)}`
      const reason = new Rejected({ code: "Refused", detail, cause: error })
      const problem =
        error instanceof BrokerError
          ? error
          : new BrokerError({ broker: driver.system, operation: what, topic: work.topic, reason })
      this.problems.delete(what)
      this.problems.set(what, problem)
      return known ? Effect.void : Effect.logWarning(`Consumer ${this.name} cannot ${what}; it goes on trying`, problem)
    })
  }

  works(what: string): Effect.Effect<void> {
    return this.problems.delete(what) ? Effect.logInfo(`Consumer ${this.name} can ${what} again`) : Effect.void
  }

  /** The broker answers, although no message has come that would show it. */
  readonly answers: Effect.Effect<void> = Effect.suspend(() =>
    Effect.andThen(this.works("ask for the backlog"), this.taking ? this.works("take messages") : Effect.void)
  )
}

/** Most unknown versions that are told of: what stands in a foreign message may be anything. */
const mostVersions = 100

const attemptOf = (exit: Exit.Exit<Attempt>): Attempt => (Exit.isSuccess(exit) ? exit.value : { _tag: "Handled", exit })
