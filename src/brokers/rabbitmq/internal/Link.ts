/**
 * A connection that is kept: opened again for as long as the layer is open, and waited for by those who need it.
 */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { Connection } from "./Connection.ts"
import { open } from "./Connection.ts"
import type { About } from "./errors.ts"
import { rejected } from "./errors.ts"
import type { Settings } from "./Settings.ts"

/** Never long, so that work goes on within seconds after the server is back. */
const untilConnected = Schedule.jittered(
  Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced("2 seconds")])
)

export class Link {
  /** The connection while there is one. */
  current: Connection | undefined = undefined
  /** Why there is none, as a sentence. */
  problem: string | undefined = undefined
  /** Told when there is another connection, when it ends, when it is blocked or not, and after each try to connect. */
  onChange: () => void = () => {}
  /** Its scope has ended; there will be no connection any more. */
  closed = false
  readonly name: "publish" | "consume"
  private readonly settings: Settings
  private readonly waiting = new Set<(connection: Connection | undefined) => void>()
  /** When the last connection was lost, by the clock of the process. */
  lostAt = 0

  constructor(name: "publish" | "consume", settings: Settings) {
    this.name = name
    this.settings = settings
  }

  /** Opens the connection, once; from then on it is kept until the scope closes. */
  readonly start: Effect.Effect<void, BrokerError, Scope.Scope> = Effect.suspend(() =>
    Effect.gen({ self: this }, function* () {
      yield* Effect.acquireRelease(Effect.void, () => this.close)
      yield* open(this.settings, this.use)
      yield* Effect.forkScoped(this.keep)
    })
  )

  private readonly close: Effect.Effect<void> = Effect.suspend(() => {
    this.closed = true
    this.problem = "the layer of this broker is closed"
    for (const go of this.waiting) go(undefined)
    this.waiting.clear()
    return this.current?.close ?? Effect.sync(this.onChange)
  })

  private readonly use = (connection: Connection): void => {
    connection.listen(() => {
      if (connection.reason !== undefined && this.current === connection) {
        this.current = undefined
        this.lostAt = Date.now()
        if (!this.closed) this.problem = `the connection was lost (${connection.reason})`
      }
      this.onChange()
    })
    this.current = connection
    this.problem = undefined
    for (const go of this.waiting) go(connection)
    this.waiting.clear()
    this.onChange()
  }

  private readonly keep: Effect.Effect<never> = Effect.forever(
    Effect.suspend(() =>
      Effect.gen({ self: this }, function* () {
        const { name } = this
        const { current } = this
        if (current !== undefined) {
          const reason = yield* current.ended
          yield* Effect.logWarning(`RabbitMQ: the connection to ${name} was lost (${reason}); connecting again`)
        }
        yield* open(this.settings, this.use).pipe(
          Effect.tapError((error) =>
            Effect.sync(() => {
              this.problem = error.reason.detail
              this.onChange()
            })
          ),
          Effect.retry(untilConnected),
          // The schedule never ends.
          Effect.orDie
        )
        yield* Effect.logInfo(`RabbitMQ: connected again to ${name}`)
      })
    )
  )

  /** The connection; waits for it where there is none, and fails where there will be none. */
  connected(about: About): Effect.Effect<Connection, BrokerError> {
    return Effect.callback((resume) => {
      if (this.closed) return resume(Effect.fail(layerClosed(about)))
      if (this.current !== undefined) return resume(Effect.succeed(this.current))
      const go = (connection: Connection | undefined) =>
        resume(connection === undefined ? Effect.fail(layerClosed(about)) : Effect.succeed(connection))
      this.waiting.add(go)
      return Effect.sync(() => this.waiting.delete(go))
    })
  }
}

export const layerClosed = (about: About): BrokerError =>
  rejected(about, "Refused", "the layer of this broker is closed; use it inside the scope that it is provided to")
