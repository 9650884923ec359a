/**
 * Random commands against a simple model: arrays instead of linked lists, one rule a line. After every command the pool and
 * the model agree on what runs, what waits, and every number of the books.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Latch, Logger, Option } from "effect"
import * as fc from "fast-check"
import { WorkerPool } from "millrace"

type Kind = "succeed" | "fail" | "die" | "interrupt"
type Command =
  | { readonly _tag: "Submit"; readonly key: string | undefined; readonly priority: number; readonly kind: Kind }
  | { readonly _tag: "Run"; readonly key: string | undefined; readonly priority: number; readonly kind: Kind }
  | { readonly _tag: "End" | "Cancel" | "Interrupt"; readonly which: number }
  | { readonly _tag: "Resize"; readonly concurrency: number }
  | { readonly _tag: "Pause" | "Resume" | "Shutdown" | "Drain" }

interface Options {
  readonly concurrency: number
  readonly capacity: number
  readonly onFull: WorkerPool.OnFull
  readonly onKeyFailure: WorkerPool.OnKeyFailure
}

/** A task in the model. */
interface Item {
  readonly id: number
  readonly key: string | undefined
  readonly priority: number
  readonly kind: Kind
  state: "refused" | "blocked" | "queued" | "running" | WorkerPool.Outcome
  acceptedAt: number
  /** When its turn came: on acceptance, or when the task of its key before it ended. */
  readyAt: number
}

class Model {
  readonly items: Array<Item> = []
  paused = false
  closing = false
  private clock = 0
  private readonly halted = new Set<string>()
  concurrency: number
  readonly options: Options

  constructor(options: Options) {
    this.options = options
    this.concurrency = options.concurrency
  }

  in(state: Item["state"]): Array<Item> {
    return this.items.filter((item) => item.state === state)
  }

  submit(key: string | undefined, priority: number, kind: Kind): Item {
    const item: Item = { id: this.items.length, key, priority, kind, state: "refused", acceptedAt: 0, readyAt: 0 }
    this.items.push(item)
    if (this.closing) return item
    if (key !== undefined && this.isStopped(key)) item.state = "dropped"
    else this.admit(item)
    return item
  }

  private isStopped(key: string): boolean {
    return this.options.onKeyFailure === "stop" && this.halted.has(key)
  }

  private keyIsBusy(item: Item): boolean {
    return (
      item.key !== undefined &&
      (this.halted.has(item.key) ||
        this.items.some(
          (other) =>
            other !== item &&
            other.key === item.key &&
            (other.state === "running" || (other.state === "queued" && other.readyAt > 0))
        ))
    )
  }

  private admit(item: Item): void {
    const ready = this.in("queued").filter((other) => other.readyAt > 0)
    const free = !this.paused && this.in("running").length < this.concurrency
    const claimed = this.in("blocked").some((other) => !this.keyIsBusy(other))
    if (free && ready.length === 0 && !claimed && !this.keyIsBusy(item)) {
      item.state = "running"
      return
    }
    if (this.in("queued").length < this.options.capacity) return this.enqueue(item)
    switch (this.options.onFull) {
      case "suspend":
        item.state = "blocked"
        return
      case "reject":
        return
      case "dropNewest":
        item.state = "dropped"
        return
      case "dropOldest": {
        const victim = [...this.in("queued"), item].sort((a, b) => a.priority - b.priority || a.id - b.id)[0] ?? item
        if (victim === item) item.state = "dropped"
        else {
          this.leaveQueue(victim, "dropped")
          this.enqueue(item)
        }
      }
    }
  }

  private enqueue(item: Item): void {
    item.state = "queued"
    item.acceptedAt = ++this.clock
    item.readyAt = 0
    if (!this.keyIsBusy(item)) item.readyAt = ++this.clock
  }

  private leaveQueue(item: Item, state: WorkerPool.Outcome): void {
    const wasActive = item.readyAt > 0
    item.state = state
    if (wasActive) this.handOver(item.key)
  }

  private handOver(key: string | undefined): void {
    const next = this.in("queued")
      .filter((item) => item.key === key && key !== undefined && item.readyAt === 0)
      .sort((a, b) => a.acceptedAt - b.acceptedAt)[0]
    if (next !== undefined && !this.keyIsBusy(next)) next.readyAt = ++this.clock
  }

  end(item: Item, state: WorkerPool.Outcome): void {
    item.state = state
    const failed = state === "failed" || state === "defected"
    if (failed && item.key !== undefined && this.options.onKeyFailure !== "continue") {
      this.halted.add(item.key)
      if (this.options.onKeyFailure === "stop") {
        const behind = [...this.in("queued"), ...this.in("blocked")]
        for (const other of behind) if (other.key === item.key) other.state = "dropped"
      }
    }
    this.handOver(item.key)
    this.fill()
  }

  cancel(item: Item): void {
    if (item.state === "blocked") item.state = "refused"
    else if (item.state === "queued") this.leaveQueue(item, "interrupted")
    else if (item.state === "running") return this.end(item, "interrupted")
    this.fill()
  }

  /** Starts what can start, and lets blocked producers in. */
  fill(): void {
    const byTurn = (a: Item, b: Item) => b.priority - a.priority || a.readyAt - b.readyAt || a.id - b.id
    for (let changed = true; changed; ) {
      changed = false
      // Places first go to those who wait for them.
      const blocked = this.in("blocked").sort(byTurn)
      if (blocked[0] !== undefined && this.in("queued").length < this.options.capacity) {
        this.enqueue(blocked[0])
        changed = true
        continue
      }
      if (this.paused || this.in("running").length >= this.concurrency) continue
      const ready = this.in("queued")
        .filter((item) => item.readyAt > 0)
        .sort(byTurn)
      const next = ready[0] ?? blocked.find((item) => !this.keyIsBusy(item))
      if (next !== undefined) {
        next.state = "running"
        changed = true
      }
    }
  }

  close(deadline: "now" | "never"): void {
    this.closing = true
    this.paused = false
    for (const item of this.in("blocked")) item.state = "refused"
    this.fill()
    if (deadline === "now") {
      for (const item of this.in("queued")) item.state = "dropped"
      for (const item of this.in("running")) item.state = "interrupted"
    }
  }
}

const outcomeOf: Record<Kind, WorkerPool.Outcome> = {
  succeed: "succeeded",
  fail: "failed",
  die: "defected",
  interrupt: "interrupted"
}

const endOf: Record<Kind, Effect.Effect<number, string>> = {
  succeed: Effect.succeed(1),
  fail: Effect.fail("no"),
  die: Effect.die("bug"),
  interrupt: Effect.interrupt
}

const key = fc.constantFrom(undefined, "a", "b")
const priority = fc.constantFrom(0, 0, 0, 1, -1)
const kind = fc.constantFrom<Kind>("succeed", "succeed", "fail", "die", "interrupt")
const which = fc.nat(40)
const command: fc.Arbitrary<Command> = fc.oneof(
  { weight: 30, arbitrary: fc.record({ _tag: fc.constant("Submit" as const), key, priority, kind }) },
  { weight: 15, arbitrary: fc.record({ _tag: fc.constant("Run" as const), key, priority, kind }) },
  { weight: 30, arbitrary: fc.record({ _tag: fc.constant("End" as const), which }) },
  { weight: 5, arbitrary: fc.record({ _tag: fc.constantFrom("Cancel" as const, "Interrupt" as const), which }) },
  {
    weight: 5,
    arbitrary: fc.record({ _tag: fc.constant("Resize" as const), concurrency: fc.integer({ min: 1, max: 4 }) })
  },
  { weight: 5, arbitrary: fc.record({ _tag: fc.constantFrom("Pause" as const, "Resume" as const) }) },
  { weight: 1, arbitrary: fc.record({ _tag: fc.constantFrom("Shutdown" as const, "Drain" as const) }) }
)
const options: fc.Arbitrary<Options> = fc.record({
  concurrency: fc.integer({ min: 1, max: 3 }),
  capacity: fc.integer({ min: 0, max: 4 }),
  onFull: fc.constantFrom<WorkerPool.OnFull>("suspend", "reject", "dropNewest", "dropOldest"),
  onKeyFailure: fc.constantFrom<WorkerPool.OnKeyFailure>("continue", "park", "stop")
})

const check = (options: Options, commands: ReadonlyArray<Command>) =>
  Effect.gen(function* () {
    const pool = yield* WorkerPool.make({ name: "p", ...options, shutdownDeadline: 0 })
    const model = new Model(options)
    const latches: Array<Latch.Latch> = []
    const begun = new Set<number>()
    const handles = new Map<number, WorkerPool.TaskHandle<number, unknown>>()
    const producers = new Map<number, Fiber.Fiber<unknown, unknown>>()
    const submitted = new Set<number>()

    const agree = Effect.gen(function* () {
      // Fibers that were told to go on have gone on.
      for (let i = 0; i < 8; i++) yield* Effect.yieldNow
      const accounting = yield* pool.accounting
      assert.isTrue(WorkerPool.isBalanced(accounting))
      const counts: Record<string, number> = {}
      for (const state of [
        "blocked",
        "queued",
        "running",
        "succeeded",
        "failed",
        "defected",
        "interrupted",
        "dropped"
      ]) {
        counts[state] = model.items.filter((item) => item.state === state).length
      }
      assert.deepInclude(accounting, counts)
      for (const item of model.items) {
        const ran = item.state === "running"
        if (ran) assert.isTrue(begun.has(item.id), `task ${item.id} should run`)
        const handle = handles.get(item.id)
        if (handle === undefined) continue
        const settled = Option.isSome(yield* handle.poll)
        assert.strictEqual(settled, !["blocked", "queued", "running"].includes(item.state), `task ${item.id}`)
      }
    })

    for (const command of commands) {
      switch (command._tag) {
        case "Submit":
        case "Run": {
          const item = model.submit(command.key, command.priority, command.kind)
          const latch = Latch.makeUnsafe()
          latches.push(latch)
          const work = Effect.andThen(
            Effect.sync(() => begun.add(item.id)),
            Effect.andThen(latch.await, endOf[item.kind])
          )
          const chosen = { key: command.key, priority: command.priority }
          if (command._tag === "Submit") submitted.add(item.id)
          producers.set(
            item.id,
            yield* Effect.forkChild(
              command._tag === "Run"
                ? pool.run(work, chosen)
                : Effect.map(pool.submit(work, chosen), (handle) => handles.set(item.id, handle)),
              { startImmediately: true }
            )
          )
          break
        }
        case "End": {
          const running = model.in("running")
          const item = running[command.which % Math.max(1, running.length)]
          if (item === undefined) break
          model.end(item, outcomeOf[item.kind])
          yield* latches[item.id]?.open ?? Effect.void
          break
        }
        case "Cancel": {
          const item = model.items[command.which % Math.max(1, model.items.length)]
          const handle = item && handles.get(item.id)
          if (item === undefined || handle === undefined) break
          model.cancel(item)
          yield* handle.cancel
          break
        }
        case "Interrupt": {
          const item = model.items[command.which % Math.max(1, model.items.length)]
          if (item === undefined) break
          // A producer that has its handle has ended; the task goes on without it.
          if (!submitted.has(item.id) || item.state === "blocked") model.cancel(item)
          yield* Fiber.interrupt(producers.get(item.id) ?? assert.fail("every task has a producer"))
          break
        }
        case "Resize":
          model.concurrency = command.concurrency
          model.fill()
          yield* pool.resize(command.concurrency)
          break
        case "Pause":
          if (model.closing) break
          model.paused = true
          yield* pool.pause
          break
        case "Resume":
          model.paused = false
          model.fill()
          yield* pool.resume
          break
        case "Shutdown":
        case "Drain":
          model.close(command._tag === "Shutdown" ? "now" : "never")
          yield* Effect.forkChild(command._tag === "Shutdown" ? pool.shutdown() : pool.drain, {
            startImmediately: true
          })
          break
      }
      // A closing pool in which nothing can run any more drops what waits for parked keys.
      if (model.closing && model.in("running").length === 0)
        for (const item of model.in("queued")) item.state = "dropped"
      yield* agree
    }
    const report = yield* pool.shutdown()
    assert.deepInclude(report.accounting, { queued: 0, running: 0, blocked: 0, abandoned: 0, overrunning: 0 })
    for (const [, handle] of handles) assert.isTrue(Option.isSome(yield* handle.poll))
    for (const [, producer] of producers) assert.isDefined(producer.pollUnsafe())
  })

describe("model", () => {
  it("the pool does what the model does", { timeout: 60_000 }, () =>
    fc.assert(
      fc.asyncProperty(options, fc.array(command, { maxLength: 60, size: "max" }), async (options, commands) => {
        const exit = await Effect.runPromiseExit(
          Effect.scoped(check(options, commands)).pipe(Effect.provide(Logger.layer([])))
        )
        if (Exit.isFailure(exit)) throw new Error(String(exit.cause))
      }),
      { numRuns: Number(process.env.MODEL_RUNS ?? 300) }
    )
  )
})
