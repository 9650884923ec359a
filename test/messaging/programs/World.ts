/**
 * What a random program works on, and what is known of it: what each message has come to, and whether the consumers say the
 * same.
 */
import { assert } from "@effect/vitest"
import { Effect, Exit, Schedule, Schema, Scope } from "effect"
import { type Broker, Consumer, DeadLetters, type Envelope, Topic } from "millrace"
import type { Memory } from "millrace/memory"
import { FaultyBroker } from "millrace/testing"
import { type Message, type Options, type Step, type Tag, tick } from "./steps.ts"

/** The first keeps the order of keys. */
export const topics = ["ordered", "free"].map((name) => ({
  numbers: Topic.make(name, { schema: Schema.Number, version: 1, groups: ["g"] }),
  anything: Topic.make(name, { schema: Schema.Unknown, version: 1, groups: ["g"] })
}))
export const topicOf = (index: number) => topics[index] ?? assert.fail("there is no topic")

/** What is known of a message. Each replay begins a new life; its number is that of the replays before. */
interface Fate {
  readonly n: number
  readonly topic: number
  readonly message: Message
  readonly begunAt: number
  confirmedAt: number
  runs: number
  /** The lives in which it was handled or dropped, those that ended as a letter, and those whose letter was to be purged. */
  readonly done: Set<number>
  readonly died: Set<number>
  readonly purged: Set<number>
}

interface Member {
  readonly topic: number
  readonly options: Options
  readonly scope: Scope.Closeable
  /** What its handlers work on. */
  readonly running: Array<Fate>
  /** What its handlers and decisions have ended. */
  readonly count: { acknowledged: number; dropped: number; deadLettered: number }
  mostHandlers: number
  report: Consumer.ConsumerReport | undefined
}

/** Its handlers may run before there is a consumer. */
interface Joined extends Member {
  readonly consumer: Consumer.RunningConsumer
}

export type Able = Broker.Broker<Memory.Abilities>

export class World {
  readonly fates: Array<Fate> = []
  readonly members: Array<Joined> = []
  /** What should not have happened. */
  readonly problems: Array<string> = []
  readonly faulty: FaultyBroker.FaultyBroker
  private readonly withFaults: boolean
  /** Ids that may be handled again without a fault. */
  private readonly again = new Set<string>()
  private moments = 0

  constructor(rates: FaultyBroker.RatesByOperation | undefined, seed: number) {
    this.withFaults = rates !== undefined
    this.faulty = FaultyBroker.make({ seed, rates: rates ?? {}, slow: 3 * tick, hang: 30 * tick })
  }

  ok(isTrue: boolean, problem: string | (() => string)): void {
    if (!isTrue) this.problems.push(typeof problem === "string" ? problem : problem())
  }

  private fate({ id }: Envelope.Envelope): Fate {
    return this.fates[Number(id)] ?? assert.fail(`there is no message ${id}`)
  }

  run(steps: ReadonlyArray<Step>): Effect.Effect<void, { readonly _tag: Tag }, Able> {
    return Effect.forEach(steps, (step) => Effect.suspend(() => this.step(step)), { discard: true })
  }

  private step(step: Step): Effect.Effect<unknown, { readonly _tag: Tag }, Able> {
    const member = "member" in step ? this.members[step.member % this.members.length] : undefined
    if ("member" in step && member === undefined) return Effect.void
    switch (step.do) {
      case "wait":
        return Effect.sleep(step.millis)
      case "stay":
        return Effect.uninterruptible(Effect.sleep(step.millis))
      case "fail":
        return Effect.fail({ _tag: step.tag })
      case "die":
        return Effect.die("a bug")
      case "interruptItself":
        return Effect.interrupt
      case "isInterrupted":
        return Effect.withFiber((fiber) =>
          Effect.andThen(
            Effect.sync(() => fiber.interruptUnsafe()),
            Effect.yieldNow
          )
        )
      case "heal":
        return this.faulty.disable
      case "harm":
        return this.faulty.enable
      case "publish":
        return this.publish(step.topic, step.messages)
      case "join":
        return this.members.length < 6 ? Effect.ignore(this.join(step.topic, step.options)) : Effect.void
      case "pause":
      case "resume":
        return member?.consumer[step.do] ?? Effect.void
      case "resize":
        if (member === undefined) return Effect.void
        member.mostHandlers = Math.max(member.mostHandlers, step.concurrency)
        return member.consumer.resize(step.concurrency)
      case "drain":
      case "close": {
        if (member === undefined) return Effect.void
        const { consumer, scope } = member
        const end = step.do === "drain" ? consumer.drain({ deadline: step.deadline }) : Scope.close(scope, Exit.void)
        return step.waits ? end : Effect.forkDetach(end)
      }
      case "replay":
        return Effect.ignore(DeadLetters.replay(topicOf(step.topic).numbers, { limit: step.limit }))
      case "purge": {
        const where = ({ envelope, replays }: DeadLetters.DeadLetter<number>) =>
          this.fate(envelope).purged.add(replays) !== undefined
        return Effect.ignore(DeadLetters.purge(topicOf(step.topic).numbers, { limit: step.limit, where }))
      }
    }
  }

  private publish(topic: number, messages: ReadonlyArray<Message>) {
    const begunAt = this.moments++
    const fates = messages.map((message, i): Fate => {
      const known = { done: new Set<number>(), died: new Set<number>(), purged: new Set<number>() }
      return { n: this.fates.length + i, topic, message, begunAt, confirmedAt: Infinity, runs: 0, ...known }
    })
    this.fates.push(...fates)
    const confirm = (ids: ReadonlyArray<string>) => {
      const now = this.moments++
      for (const fate of fates) if (ids.includes(String(fate.n))) fate.confirmedAt = now
    }
    return topicOf(topic)
      .anything.publishAll(
        fates.map(({ message, n }) => (message.isReadable ? n : String(n))),
        { id: String, key: (n) => this.fates[Number(n)]?.message.key }
      )
      .pipe(
        Effect.retry({ times: 1 }),
        Effect.match({
          onFailure: (error) => confirm(error._tag === "PublishIncomplete" ? error.confirmed : []),
          onSuccess: (receipts) => confirm(receipts.map(({ id }) => id))
        })
      )
  }

  private handle(member: Member, envelope: Envelope.Envelope): Effect.Effect<void, { readonly _tag: Tag }, Able> {
    return Effect.suspend(() => {
      const fate = this.fate(envelope)
      if (member.topic === 0 && fate.message.key !== undefined) this.lookAtKey(member, fate)
      // A batch that fails as a whole is handled again as a whole.
      if (member.options.batch !== undefined) this.again.add(envelope.id)
      const mayCome = this.withFaults || this.again.has(envelope.id) || !fate.done.has(envelope.replays)
      this.ok(mayCome, `${fate.n} is handled twice`)
      member.running.push(fate)
      const succeed = Effect.sync(() => {
        member.count.acknowledged++
        fate.done.add(envelope.replays)
      })
      return Effect.andThen(this.run(fate.message.runs[fate.runs++] ?? []), succeed).pipe(
        Effect.ensuring(Effect.sync(() => member.running.splice(member.running.indexOf(fate), 1)))
      )
    })
  }

  /** A message must not begin before what was there earlier has come to its end, nor beside another of its key. */
  private lookAtKey(member: Member, fate: Fate): void {
    const isOfKey = (one: Fate) => one.topic === 0 && one.message.key === fate.message.key
    const isEarlier = ({ begunAt, confirmedAt, n }: Fate) =>
      confirmedAt < fate.begunAt || (!this.withFaults && begunAt === fate.begunAt && n < fate.n)
    const early = this.fates.find((one) => isOfKey(one) && isEarlier(one) && one.done.size + one.died.size === 0)
    this.ok(early === undefined, () => `${fate.n} runs before ${early?.n}`)
    for (const other of this.members) {
      // A handler that does not stop when its message is lost, or when it is abandoned, may overlap that of another member.
      if (other !== member && (this.withFaults || other.report !== undefined)) continue
      const beside = other.running.find(isOfKey)
      this.ok(beside === undefined, () => `${fate.n} runs beside ${beside?.n}`)
    }
  }

  join(topic: number, options: Options): Effect.Effect<void, Broker.BrokerError, Able> {
    return Effect.gen({ self: this }, function* () {
      const scope = yield* Scope.make()
      const count = { acknowledged: 0, dropped: 0, deadLettered: 0 }
      const mostHandlers = options.concurrency
      const member: Member = { topic, options, scope, count, running: [], mostHandlers, report: undefined }
      const drop = (envelope: Envelope.Envelope) => {
        count.dropped++
        this.fate(envelope).done.add(envelope.replays)
        return Consumer.drop("unwanted")
      }
      const decide = (decision: string, envelope: Envelope.Envelope) =>
        decision === "drop" ? drop(envelope) : decision === "again" ? Consumer.delay(2 * tick) : Consumer.deadLetter
      const { batch, onDefect, onTimeout, ...rest } = options
      const all = {
        ...rest,
        group: "g",
        stallAfter: 20 * tick,
        onTimeout: (envelope: Envelope.Envelope) => decide(onTimeout, envelope),
        onDefect: (_: unknown, envelope: Envelope.Envelope) => decide(onDefect, envelope),
        onError: {
          Again: Consumer.retry(Schedule.max([Schedule.spaced(tick), Schedule.recurs(2)])),
          Later: () => Consumer.delay(3 * tick),
          Refused: Consumer.deadLetter,
          Unwanted: (_: unknown, envelope: Envelope.Envelope) => drop(envelope),
          Throws: () => assert.fail("onError has a bug")
        },
        onDeadLetter: (envelope: Envelope.Envelope) =>
          Effect.sync(() => {
            count.deadLettered++
            this.fate(envelope).died.add(envelope.replays)
          }),
        onShutdown: (report: Consumer.ConsumerReport) => Effect.sync(() => this.lookAtReport(member, report))
      }
      const { numbers } = topicOf(topic)
      const handle = (_: number, envelope: Envelope.Envelope) => this.handle(member, envelope)
      const handleBatch = (messages: ReadonlyArray<Consumer.BatchMessage<number>>) =>
        Effect.forEach(messages, ({ message, value }) => Effect.result(handle(value, message)), {
          concurrency: batch?.together === true ? "unbounded" : 1
        })
      const make =
        topic === 0
          ? Consumer.make(numbers, handle, { ...all, order: "key" })
          : batch === undefined
            ? Consumer.make(numbers, handle, all)
            : Consumer.makeBatch(numbers, handleBatch, { ...all, ...batch })
      this.members.push(Object.assign(member, { consumer: yield* Scope.provide(make, scope) }))
    })
  }

  private lookAtReport(member: Member, report: Consumer.ConsumerReport): void {
    member.report = report
    const { abandoned, accounting, drained, elapsed, released, unsettled } = report
    for (const id of abandoned) this.again.add(id)
    const { shutdownDeadline, shutdownGrace } = member.options
    const isTrue =
      Consumer.isBalanced(accounting) &&
      accounting.queued + accounting.running + accounting.settling === 0 &&
      accounting.unsettled === abandoned.length + unsettled.length &&
      (this.withFaults || unsettled.length === 0) &&
      released <= accounting.released &&
      drained <= accounting.received &&
      member.running.every(({ n }) => abandoned.includes(String(n))) &&
      elapsed <= Math.max(10 * tick, shutdownDeadline) + 5 * shutdownGrace + 2 * tick
    this.ok(isTrue, () => `${JSON.stringify(report)} is not true, with ${member.running.map(({ n }) => n)} running`)
  }

  /** What is true at every instant. */
  readonly look: Effect.Effect<void> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      for (const { consumer, count, mostHandlers, options, report, running, topic } of this.members) {
        const books = yield* consumer.accounting
        const { status } = yield* consumer.health
        const held = books.queued + books.running + books.settling
        const isOpen = status === "consuming" || status === "paused"
        const isTrue =
          Consumer.isBalanced(books) &&
          Object.values(books).every((number) => number >= 0) &&
          held <= options.prefetch &&
          books.acknowledged <= count.acknowledged &&
          books.dropped <= count.dropped &&
          books.deadLettered <= count.deadLettered &&
          (status !== "stopped" || held + books.bytes === 0) &&
          (this.withFaults || (books.lost === 0 && (!isOpen || topic === 0 || books.released === 0)))
        this.ok(isTrue, () => `${JSON.stringify(books)} is not true when ${status} after ${JSON.stringify(count)}`)
        const isOver = topic === 0 || options.batch === undefined ? running.length > mostHandlers : false
        this.ok(!isOver || report !== undefined, "more handlers than may run")
      }
      assert.deepStrictEqual(this.problems, [])
    })
  )
}
