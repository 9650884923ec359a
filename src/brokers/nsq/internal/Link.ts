/** The connection by which messages go to one nsqd, opened again for as long as it is wanted. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type { Connection } from "../protocol/Connection.ts"
import { connect } from "../protocol/Connection.ts"
import type { ConnectionLost, ServerError } from "../protocol/errors.ts"
import { connectOptions } from "./connectOptions.ts"
import type { NodeAddress, Settings } from "./Settings.ts"
import { keyOf } from "./Settings.ts"
import type { Topology } from "./Topology.ts"

/** Never long, so that work goes on within seconds after the server is back. */
export const untilConnected = Schedule.jittered(
  Schedule.min([Schedule.exponential("50 millis"), Schedule.spaced("2 seconds")])
)

export class Link {
  readonly address: NodeAddress
  /** The connection while messages can go by it. */
  connection: Connection | undefined = undefined
  /** Messages sent and not confirmed. */
  unconfirmed = 0
  /** Why there is no connection. */
  problem: ServerError | ConnectionLost | undefined = undefined
  private readonly settings: Settings
  private readonly topology: Topology
  private readonly onChange: (link: Link) => void
  private wasLost = false

  constructor(address: NodeAddress, settings: Settings, topology: Topology, onChange: (link: Link) => void) {
    this.address = address
    this.settings = settings
    this.topology = topology
    this.onChange = onChange
  }

  get name(): string {
    return keyOf(this.address)
  }

  /** One connection, from its beginning to its end. */
  private readonly once: Effect.Effect<ConnectionLost, ServerError | ConnectionLost> = Effect.suspend(() => {
    return Effect.scoped(
      Effect.gen({ self: this }, function* () {
        const connection = yield* connect(connectOptions(this.settings, this.address))
        this.topology.forgetNode(this.address)
        yield* this.topology.declareAll(this.address, () => {
          this.connection = connection
          this.problem = undefined
          this.onChange(this)
        })
        if (this.wasLost) yield* Effect.logInfo(`NSQ: connected again to nsqd ${this.name}`)
        this.wasLost = false
        return yield* connection.closed
      })
    ).pipe(
      Effect.onExit(() =>
        Effect.sync(() => {
          this.connection = undefined
        })
      )
    )
  })

  /** Connects again and again. */
  readonly keep: Effect.Effect<never> = Effect.suspend(() => {
    const note = (problem: ServerError | ConnectionLost) =>
      Effect.sync(() => {
        this.problem = problem
        this.onChange(this)
      })
    return Effect.forever(
      this.once.pipe(
        Effect.tapError(note),
        Effect.retry(untilConnected),
        // The schedule never ends.
        Effect.orDie,
        Effect.tap(note),
        Effect.tap((lost) => {
          this.wasLost = true
          return Effect.logWarning(`NSQ: ${lost.message}; connecting again`)
        }),
        Effect.andThen(Effect.sleep("20 millis"))
      )
    )
  })
}
