/** What the operations of the driver share. */
import type { Channel } from "amqplib"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import { Aside } from "./Aside.ts"
import { withChannel } from "./Connection.ts"
import type { Consumption } from "./Consumption.ts"
import type { About } from "./errors.ts"
import { errorOf, unavailable } from "./errors.ts"
import type { Item } from "./Lane.ts"
import { Link } from "./Link.ts"
import { Publisher } from "./Publisher.ts"
import type { Settings } from "./Settings.ts"
import type { Queue } from "./Topology.ts"
import { Topology } from "./Topology.ts"

export class Parts {
  readonly settings: Settings
  readonly publishing: Link
  /**
   * The connection of consumers and declarations. It publishes nothing, so the server never blocks it: whatever the server
   * runs out of, consumers can begin and acknowledge.
   */
  readonly consuming: Link
  readonly aside: Aside
  readonly topology: Topology
  readonly publisher: Publisher
  readonly consumptions = new Set<Consumption>()
  private readonly context: Context.Context<never>
  /** Declarations under way, by queue. */
  private readonly declaring = new Map<string, Promise<void>>()

  constructor(settings: Settings, context: Context.Context<never>) {
    this.settings = settings
    this.context = context
    this.publishing = new Link("publish", settings)
    this.consuming = new Link("consume", settings)
    this.aside = new Aside(settings)
    this.topology = new Topology(settings)
    this.publisher = new Publisher(this.publishing, settings, this.topology, {
      queueOf: (item) => this.declareOnce(item),
      restore: (item) =>
        this.run(this.onChannel(item.about, (channel) => this.topology.restore(channel, item.exchange)))
    })
    // What the next server has is not known: it may be another one, or have lost its disk.
    this.consuming.onChange = () => {
      if (this.consuming.current === undefined) this.topology.forgetQueues()
    }
  }

  private run(effect: Effect.Effect<void, BrokerError>): Promise<void> {
    return Effect.runPromiseWith(this.context)(effect)
  }

  readonly log = (message: string, error: BrokerError): void => {
    Effect.runForkWith(this.context)(Effect.logWarning(message, error))
  }

  private declareOnce({ about, queue }: Item): Promise<void> {
    if (queue === undefined) return Promise.resolve()
    const known = this.declaring.get(queue.name)
    if (known !== undefined) return known
    const declaring = this.declareQueue(about, queue).finally(() => this.declaring.delete(queue.name))
    this.declaring.set(queue.name, declaring)
    return declaring
  }

  private declareQueue(about: About, queue: Queue): Promise<void> {
    return this.run(this.onChannel(about, (channel) => this.topology.assert(channel, queue)))
  }

  /**
   * Runs on a channel of its own, since the server closes one on which something is refused. It must be something that may be
   * done twice: it is tried again while the server is out of reach, as long as operations wait for a connection.
   */
  onChannel<A>(about: About, use: (channel: Channel) => Promise<A>): Effect.Effect<A, BrokerError> {
    return this.patiently(
      about,
      Effect.flatMap(this.consuming.connected(about), (connection) =>
        Effect.tryPromise({
          try: () => withChannel(connection, use),
          catch: (error) => errorOf(about, connection.isOpen ? error : new Error(connection.reason, { cause: error }))
        })
      )
    )
  }

  /** Tries again while the server is out of reach, as long as operations wait for a connection. */
  patiently<A>(about: About, effect: Effect.Effect<A, BrokerError>): Effect.Effect<A, BrokerError> {
    return Effect.suspend(() => {
      const { consuming, settings } = this
      let last: string | undefined
      return effect.pipe(
        Effect.tapError(({ reason }) =>
          Effect.sync(() => {
            last = reason.detail
          })
        ),
        Effect.retry({
          while: ({ reason }) => reason._tag === "Unavailable",
          schedule: Schedule.spaced("200 millis")
        }),
        Effect.timeoutOrElse({
          duration: settings.waitForConnection,
          orElse: () => {
            const why = consuming.problem ?? last ?? "the server does not answer"
            return Effect.fail(unavailable(about, `not done within ${settings.waitForConnection} ms: ${why}`))
          }
        })
      )
    })
  }
}
