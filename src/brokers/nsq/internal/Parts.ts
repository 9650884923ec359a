/** What the operations of the driver share. */
import * as Effect from "effect/Effect"
import * as FiberMap from "effect/FiberMap"
import type * as Scope from "effect/Scope"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import { BrokerError as Failed } from "../../../messaging/BrokerError.ts"
import * as Lookup from "../protocol/Lookup.ts"
import type { Consumption } from "./Consumption.ts"
import type { About } from "./errors.ts"
import { errorOf, unavailable } from "./errors.ts"
import { Link } from "./Link.ts"
import { Nodes } from "./Nodes.ts"
import { Publisher } from "./Publisher.ts"
import type { NodeAddress, Settings } from "./Settings.ts"
import { keyOf } from "./Settings.ts"
import { Topology } from "./Topology.ts"

export class Parts {
  readonly settings: Settings
  readonly nodes: Nodes
  readonly topology: Topology
  readonly publisher: Publisher
  readonly links = new Map<string, Link>()
  readonly consumptions = new Set<Consumption>()
  private readonly linkFibers: FiberMap.FiberMap<string>
  private readonly warned = new Set<string>()
  /** Told when a link has changed. */
  private readonly listeners = new Set<() => void>()
  private readonly fork: (effect: Effect.Effect<unknown>) => void

  constructor(
    settings: Settings,
    linkFibers: FiberMap.FiberMap<string>,
    fork: (effect: Effect.Effect<unknown>) => void
  ) {
    this.settings = settings
    this.linkFibers = linkFibers
    this.fork = fork
    this.nodes = new Nodes(settings)
    this.topology = new Topology(settings)
    this.publisher = new Publisher(settings, () => this.linkList)
  }

  private linkList: ReadonlyArray<Link> = []

  /** Begins to look for nsqd and to connect to them, until the scope closes. */
  readonly start: Effect.Effect<void, BrokerError, Scope.Scope> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      yield* Effect.addFinalizer(() => Effect.sync(() => this.publisher.close()))
      yield* this.nodes.refresh
      this.nodes.onChange(() => this.followNodes())
      this.followNodes()
      yield* this.connected({ operation: "connect" }, this.settings.connectTimeout)
      yield* Effect.forkScoped(this.nodes.keep)
      const sweep = Effect.sync(() => this.publisher.failLate())
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep("250 millis"), sweep)))
    })
  )

  /** A link to each nsqd that messages go to. */
  private followNodes(): void {
    const targets = new Map(this.nodes.targets.map((address) => [keyOf(address), address]))
    for (const [key, address] of targets) {
      if (this.links.has(key)) continue
      const link = new Link(address, this.settings, this.topology, this.changed)
      this.links.set(key, link)
      this.fork(FiberMap.run(this.linkFibers, key, link.keep))
    }
    for (const key of this.links.keys()) {
      if (targets.has(key)) continue
      this.links.delete(key)
      this.fork(FiberMap.remove(this.linkFibers, key))
    }
    this.linkList = [...this.links.values()]
  }

  private readonly changed = (link: Link): void => {
    this.publisher.wake()
    for (const listener of this.listeners) listener()
    if (link.connection !== undefined && !this.warned.has(link.name)) {
      this.warned.add(link.name)
      this.fork(this.learn(link.address))
    }
  }

  /** The HTTP address of an nsqd, which an nsqlookupd may have said since. */
  httpOf(address: NodeAddress): string | undefined {
    return (this.nodes.all.find((known) => keyOf(known) === keyOf(address)) ?? address).http
  }

  /** Reads what the server tells of its settings, where it tells it. */
  private learn(address: NodeAddress): Effect.Effect<void> {
    const http = this.httpOf(address)
    if (http === undefined) return Effect.void
    return Effect.gen({ self: this }, function* () {
      const inMemory = yield* Lookup.config(http, "mem_queue_size")
      if (inMemory > 0) {
        yield* Effect.logWarning(
          `NSQ: nsqd ${keyOf(address)} keeps up to ${inMemory} messages of each topic and channel in memory; they are lost when it is killed. Start it with -mem-queue-size=0.`
        )
      }
      const step = yield* Lookup.config(http, "max_req_timeout")
      this.publisher.longestStep = Math.min(this.publisher.longestStep, Math.floor(step / 1_000_000))
    }).pipe(Effect.ignore)
  }

  /** Waits until there is a connection to publish by. */
  connected(about: About, patience = this.settings.waitForConnection): Effect.Effect<void, BrokerError> {
    const wait = Effect.callback<void, BrokerError>((resume) => {
      const look = () => {
        const links = this.linkList
        if (links.some(({ connection }) => connection !== undefined)) return resume(Effect.void)
        const refused = links.map(({ problem }) => problem)
        // All of them have answered, and said no.
        if (links.length > 0 && refused.every((problem) => problem?._tag === "ServerError")) {
          const [problem] = refused
          if (problem !== undefined) resume(Effect.fail(errorOf(about, problem)))
        }
      }
      this.listeners.add(look)
      look()
      return Effect.sync(() => this.listeners.delete(look))
    })
    return Effect.timeoutOrElse(wait, {
      duration: patience,
      orElse: () => Effect.fail(unavailable(about, `no nsqd was reached within ${patience} ms: ${this.whyNot}`))
    })
  }

  /** Why there is no connection, as a sentence. */
  get whyNot(): string {
    const problem = this.linkList.find((link) => link.problem !== undefined)?.problem
    return problem?.message ?? this.nodes.problem ?? "none is known"
  }

  /** Declares channels at every nsqd that can be reached; at the others before messages go there. */
  declare(about: About, topic: string, channels: ReadonlyArray<string>): Effect.Effect<void, BrokerError> {
    return Effect.suspend(() => {
      const added = this.topology.want(topic, channels)
      const attempt = Effect.suspend(() =>
        Effect.forEach(
          this.linkList.filter(({ connection }) => connection !== undefined),
          (link) => Effect.result(this.topology.declareAt(link.address, topic, channels)),
          { concurrency: "unbounded" }
        )
      ).pipe(
        Effect.flatMap((answers) => {
          const failures = answers.flatMap((answer) => (answer._tag === "Failure" ? [answer.failure] : []))
          const [first] = failures
          if (first === undefined) return Effect.void
          const error = errorOf(about, first)
          return Effect.fail(error)
        })
      )
      return Effect.tapError(this.patiently(about, Effect.andThen(this.connected(about), attempt)), ({ reason }) =>
        Effect.sync(() => {
          // What a server refuses must not be asked for again at each connection.
          if (reason._tag === "Rejected") for (const channel of added) this.topology.forget(topic, channel)
        })
      )
    })
  }

  /** Tries again while servers are out of reach, as long as operations wait for a connection. */
  patiently<A>(
    about: About,
    effect: Effect.Effect<A, BrokerError>,
    why: () => string | undefined = () => undefined
  ): Effect.Effect<A, BrokerError> {
    return Effect.suspend(() => {
      const { waitForConnection } = this.settings
      let last: BrokerError | undefined
      return effect.pipe(
        Effect.tapError((error) =>
          Effect.sync(() => {
            last = error
          })
        ),
        Effect.catchIf(
          ({ reason }) => reason._tag === "Unavailable",
          () => Effect.andThen(Effect.sleep("100 millis"), Effect.fail("again" as const))
        ),
        Effect.retry({ while: (error) => error === "again" }),
        Effect.timeoutOrElse({
          duration: waitForConnection,
          orElse: () => {
            const detail = last?.reason.detail ?? why() ?? this.whyNot
            return Effect.fail(unavailable(about, `not done within ${waitForConnection} ms: ${detail}`))
          }
        }),
        // What is to be tried again is.
        Effect.mapError((error) => (error instanceof Failed ? error : unavailable(about, this.whyNot)))
      )
    })
  }
}
