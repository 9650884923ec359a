/**
 * What the cases of the conformance suite are written with: connections, topics, a log of what was handled, and conditions to
 * wait for. Nothing sleeps for a fixed time and hopes.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { Ability, Broker } from "../../messaging/Broker.ts"
import { named } from "../../messaging/Broker.ts"
import { BrokerError } from "../../messaging/BrokerError.ts"
import type { AbilityOptions, ConsumerOptions, Decision, RunningConsumer } from "../../messaging/Consumer.ts"
import * as Consumer from "../../messaging/Consumer.ts"
import type { Driver, OutgoingMessage, Published, SubscribeOptions, Subscription } from "../../messaging/Driver.ts"
import type { Envelope } from "../../messaging/Envelope.ts"
import * as Topic from "../../messaging/Topic.ts"
import type { Fixture } from "./Fixture.ts"

/** The driver does not do what it should; the text says what, with evidence. */
export class ConformanceFailed extends Schema.TaggedError<ConformanceFailed>("millrace/ConformanceFailed")(
  "ConformanceFailed",
  {
    /** The name of the case, empty within it. */
    case: Schema.String,
    detail: Schema.String,
    cause: Schema.optional(Schema.Defect())
  }
) {
  override get message(): string {
    return `${this.case}: ${this.detail}`
  }
}

/** What a case saw. */
export interface CaseReport {
  /** Messages that were sent. */
  readonly sent: number
  /** Handlings beyond the first of a message, which at-least-once allows. */
  readonly duplicates: number
}

export const fail = (detail: string, cause?: unknown): Effect.Effect<never, ConformanceFailed> =>
  Effect.fail(new ConformanceFailed({ case: "", detail, cause }))

/** Fails with the detail where the condition does not hold. */
export const check = (condition: boolean, detail: string | (() => string)): Effect.Effect<void, ConformanceFailed> =>
  condition ? Effect.void : fail(typeof detail === "string" ? detail : detail())

export const checkEqual = (actual: unknown, expected: unknown, what: string): Effect.Effect<void, ConformanceFailed> =>
  check(isSame(actual, expected), () => `${what} should be ${show(expected)}, got ${show(actual)}`)

const isSame = (a: unknown, b: unknown): boolean => {
  if (Object.is(a, b)) return true
  if (a instanceof Uint8Array && b instanceof Uint8Array)
    return a.byteLength === b.byteLength && a.every((byte, index) => byte === b[index])
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false
  if (Array.isArray(a) !== Array.isArray(b)) return false
  // A field that is undefined and one that is absent are the same.
  const keys = new Set([...Object.keys(a), ...Object.keys(b)])
  return [...keys].every((key) => isSame(Reflect.get(a, key), Reflect.get(b, key)))
}

export const show = (value: unknown): string => {
  if (value instanceof Uint8Array) return `${value.byteLength} bytes`
  const text = JSON.stringify(value, (_, inner) => (inner instanceof Uint8Array ? `${inner.byteLength} bytes` : inner))
  return text === undefined ? String(value) : text.length > 400 ? `${text.slice(0, 400)}…` : text
}

/** The error of handlers that fail. */
export class Boom extends Schema.TaggedError<Boom>("millrace/conformance/Boom")("Boom", { why: Schema.String }) {}

/** Payload of most cases: a number, in the order in which it was published within its key. */
export const Numbered = Schema.Struct({ n: Schema.Number, key: Schema.String })
export type Numbered = typeof Numbered.Type

/** A message that a handler got. */
export interface Seen {
  readonly id: string
  readonly n: number
  readonly key: string
  readonly attempt: number
  readonly envelope: Envelope
  /** Milliseconds of the monotonic clock. */
  readonly at: number
}

export const seen = (value: Numbered, envelope: Envelope): Effect.Effect<Seen> =>
  Effect.map(now, (at) => ({ id: envelope.id, ...value, attempt: envelope.attempt, envelope, at }))

/** Milliseconds of the monotonic clock. */
export const now: Effect.Effect<number> = Effect.map(Clock.monotonicTimeNanos, (nanos) => Number(nanos) / 1_000_000)

/** Again at once, and more often than any case fails. */
export const again: Decision = Consumer.retry(Schedule.recurs(1000))

/** Options of {@link App.consume}; what becomes of a `Boom` is `again` unless it is said. */
export type ConsumeOptions = ConsumerOptions &
  AbilityOptions<"key" | undefined, "earliest" | Date | undefined> & {
    readonly onError?: Decision | ((error: Boom, message: Envelope) => Decision) | undefined
  }

/** A connection to the broker, as of a process of its own. */
export interface App {
  readonly driver: Driver
  /** All that the layer provides. */
  readonly context: Context.Context<Broker>
  /** Gives the broker of this connection to an effect that asks it for anything. */
  readonly run: <A, E, R>(
    effect: Effect.Effect<A, E, R | Broker<Ability>>
  ) => Effect.Effect<A, E, Exclude<R, Broker<Ability>>>
  /** Starts a consumer that closes with the scope. */
  readonly consume: <A>(
    topic: Topic.Topic<A>,
    handler: (value: A, envelope: Envelope) => Effect.Effect<unknown, Boom, Scope.Scope>,
    options: ConsumeOptions
  ) => Effect.Effect<RunningConsumer, BrokerError | ConformanceFailed, Scope.Scope>
  /** Publishes, where need be again under the same id until it is confirmed; answers the id. */
  readonly publish: <A>(
    topic: Topic.Topic<A>,
    value: A,
    options?: Topic.PublishOptions & { readonly delay?: Duration.Input; readonly priority?: number }
  ) => Effect.Effect<string, BrokerError | Topic.EncodeError | ConformanceFailed>
  /** Sends as the driver does, message by message until it is confirmed. */
  readonly send: (messages: ReadonlyArray<OutgoingMessage>) => Effect.Effect<void, BrokerError | ConformanceFailed>
  readonly subscribe: (
    options: Pick<SubscribeOptions, "topic" | "group"> & Partial<SubscribeOptions>
  ) => Effect.Effect<Subscription, BrokerError | ConformanceFailed, Scope.Scope>
}

/** What a case is given. */
export class Env {
  readonly fixture: Fixture
  readonly calm: boolean
  /** Milliseconds that a condition is waited for. */
  readonly patience: number
  private readonly scale: number
  private readonly prefix: string
  private topics = 0

  constructor(fixture: Fixture, prefix: string) {
    this.fixture = fixture
    this.prefix = prefix
    this.calm = fixture.calm ?? true
    this.scale = fixture.scale ?? 0.1
    this.patience = Duration.toMillis(Duration.fromInputUnsafe(fixture.patience ?? "15 seconds"))
  }

  can(ability: Ability): boolean {
    return this.fixture.abilities[ability] !== "none"
  }

  /** The lease that cases use: the shortest exact one where leases matter. */
  get lease(): number {
    return this.fixture.lease === "none" ? 30_000 : this.fixture.lease
  }

  /** A number of messages or rounds by the scale, at least `least`. */
  count(full: number, least: number): number {
    return Math.max(least, Math.round(full * this.scale))
  }

  /** A name that nobody has used. */
  name(): string {
    return `${this.prefix}-${++this.topics}`
  }

  /** A topic of numbered messages that nobody has used, with the groups that exist from the beginning. */
  topic(...groups: ReadonlyArray<string>): Topic.Topic<Numbered> {
    return Topic.make(this.name(), { schema: Numbered, version: 1, key: ({ key }) => key, groups })
  }

  /** A new connection, closed with the scope. */
  readonly connect: Effect.Effect<App, ConformanceFailed, Scope.Scope> = Effect.suspend(() =>
    this.connectBy(this.fixture.layer)
  )

  connectBy(layer: Layer.Layer<Broker, unknown>): Effect.Effect<App, ConformanceFailed, Scope.Scope> {
    return Layer.build(Layer.fresh(layer)).pipe(
      Effect.map((context) => makeApp(this, context)),
      Effect.catchCause((cause) => fail(`the layer cannot be built: ${Cause.pretty(cause)}`, Cause.squash(cause)))
    )
  }

  /** Waits until the condition holds. `evidence` is told where it does not within the time. */
  until(
    what: string,
    condition: () => boolean,
    evidence: () => string = () => "",
    patience = this.patience
  ): Effect.Effect<void, ConformanceFailed> {
    return this.untilEffect(what, Effect.sync(condition), evidence, patience)
  }

  untilEffect<E>(
    what: string,
    condition: Effect.Effect<boolean, E>,
    evidence: () => string = () => "",
    patience = this.patience
  ): Effect.Effect<void, E | ConformanceFailed> {
    return Effect.gen(function* () {
      const end = (yield* now) + patience
      while (!(yield* condition)) {
        if ((yield* now) > end) return yield* fail(`${what}: not within ${patience} ms. ${evidence()}`)
        yield* Effect.sleep(5)
      }
    })
  }

  /** The effect, tried again while the broker is out of reach. In calm it must not be. */
  patiently<A, E, R>(
    effect: Effect.Effect<A, E, R>,
    what = "an operation"
  ): Effect.Effect<A, E | ConformanceFailed, R> {
    if (this.calm) return this.within(what, effect)
    const outOfReach = (error: E) => error instanceof BrokerError && error.reason._tag === "Unavailable"
    return this.within(
      `${what}, tried again and again,`,
      Effect.retry(effect, { while: outOfReach, schedule: Schedule.spaced(5) })
    )
  }

  /** Fails where the effect takes longer than a condition may. */
  within<A, E, R>(what: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | ConformanceFailed, R> {
    return Effect.timeoutOrElse(effect, {
      duration: this.patience,
      orElse: () => fail(`${what} has not ended within ${this.patience} ms`)
    })
  }

  /** Waits until the log has all of these, then checks that it has nothing else. */
  all(log: Log, expected: ReadonlyArray<string>): Effect.Effect<CaseReport, ConformanceFailed> {
    const wanted = new Set(expected)
    const missing = () => expected.filter((id) => !log.ids.has(id))
    const extra = () => [...log.ids].filter((id) => !wanted.has(id))
    return this.until(
      `all ${wanted.size} messages are handled`,
      () => missing().length === 0,
      () => `Missing ${missing().length}: ${show(missing().slice(0, 10))}`
    ).pipe(
      Effect.andThen(
        Effect.suspend(() =>
          check(
            extra().length === 0,
            () => `${extra().length} messages were handled that nobody sent: ${show(extra())}`
          )
        )
      ),
      Effect.as({ sent: wanted.size, duplicates: log.entries.length - log.ids.size })
    )
  }
}

/** What was handled, in order. */
export class Log {
  readonly entries: Array<Seen> = []
  readonly ids = new Set<string>()

  add(entry: Seen): void {
    this.entries.push(entry)
    this.ids.add(entry.id)
  }

  /** A handler that notes what it gets. */
  readonly note = (value: Numbered, envelope: Envelope): Effect.Effect<Seen> =>
    Effect.tap(seen(value, envelope), (entry) => Effect.sync(() => this.add(entry)))

  of(id: string): ReadonlyArray<Seen> {
    return this.entries.filter((entry) => entry.id === id)
  }

  /** The first handling of each message of a key, in order. */
  firsts(key: string): ReadonlyArray<number> {
    const ids = new Set<string>()
    return this.entries.flatMap((entry) => {
      if (entry.key !== key || ids.has(entry.id)) return []
      ids.add(entry.id)
      return [entry.n]
    })
  }
}

/** Fails where the messages of a key were not handled in the order of their numbers. */
export const checkOrder = (log: Log): Effect.Effect<void, ConformanceFailed> =>
  Effect.forEach(
    new Set(log.entries.map(({ key }) => key)),
    (key) => {
      const numbers = log.firsts(key)
      const wrong = numbers.findIndex((n, index) => index > 0 && n < (numbers[index - 1] ?? 0))
      return check(wrong < 0, () => `key "${key}" was handled out of order: ${show(numbers.slice(0, wrong + 2))}`)
    },
    { discard: true }
  )

const makeApp = (env: Env, context: Context.Context<Broker>): App => {
  // The fixture says what the broker can; a case asks only for that, or to be refused.
  const all = context as unknown as Context.Context<Broker<Ability>>
  const driver = Effect.runSync(
    Effect.provideContext(
      Effect.map(named("default"), (driver): Driver => driver),
      context
    )
  )
  const run: App["run"] = (effect) => Effect.provideContext(effect, all) as Effect.Effect<never, never, never> as never
  return {
    driver,
    context,
    run,
    consume: (topic, handler, { onError = again, ...options }) =>
      env.patiently(
        run(Consumer.make(topic, handler, { shutdownDeadline: "5 seconds", ...options, onError: { Boom: onError } }))
      ),
    publish: (topic, value, options) => {
      const id = options?.id ?? crypto.randomUUID()
      return Effect.as(env.patiently(run(topic.publish(value, { ...options, id }))), id)
    },
    send: (messages) =>
      Effect.forEach(
        messages,
        (message) => env.patiently(Effect.flatMap(driver.publish([message]), ([answer]) => confirmed(answer))),
        { discard: true }
      ),
    subscribe: (options) => env.patiently(driver.subscribe({ credit: 100, lease: 30_000, order: "none", ...options }))
  }
}

const confirmed = (answer: Published | undefined): Effect.Effect<void, BrokerError | ConformanceFailed> => {
  if (answer === undefined) return fail("publish answered nothing for a message")
  return answer._tag === "Failed" ? Effect.fail(answer.error) : Effect.void
}

/** A message as a driver takes it. */
export const outgoing = (
  topic: string,
  id: string,
  fields: Partial<Omit<OutgoingMessage, "envelope">> & { readonly envelope?: Partial<Envelope> } = {}
): OutgoingMessage => {
  const { envelope, ...rest } = fields
  return {
    envelope: {
      id,
      topic,
      source: "//conformance",
      key: undefined,
      version: 1,
      timestamp: 1_700_000_000_000,
      contentType: "application/json",
      attempt: 1,
      traceparent: undefined,
      tracestate: undefined,
      correlationId: undefined,
      headers: {},
      history: undefined,
      death: undefined,
      replays: 0,
      ...envelope
    },
    body: new TextEncoder().encode(JSON.stringify({ n: 0, key: id })),
    destination: { _tag: "Topic", topic },
    ...rest
  }
}

/** One case of the suite. */
export interface Spec {
  /** Short and stable, to name a case by. */
  readonly id: string
  readonly name: string
  /** Why it cannot run with this fixture; nothing where it can. */
  readonly needs?: (fixture: Fixture) => string | undefined
  /** Longest run, in multiples of the fixture's patience. Default 4. */
  readonly longest?: number
  readonly run: (env: Env) => Effect.Effect<CaseReport, unknown, Scope.Scope>
}

export const needs =
  (...abilities: ReadonlyArray<Ability>) =>
  (fixture: Fixture): string | undefined => {
    const missing = abilities.filter((ability) => fixture.abilities[ability] === "none")
    return missing.length === 0 ? undefined : `the driver has no ${missing.join(", ")}`
  }

/** For cases that count exactly, which duplicates would spoil. */
export const needsCalm = ({ calm }: Fixture): string | undefined =>
  calm === false ? "it counts exactly, and duplicates are allowed where things go wrong" : undefined

export const needsHook =
  (hook: "restart" | "crash" | "blackHole" | "worker" | "transactions") =>
  (fixture: Fixture): string | undefined =>
    fixture[hook] === undefined ? `the fixture gives no ${hook}` : undefined
