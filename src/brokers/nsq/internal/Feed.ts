/**
 * A topic at one nsqd that a subscription reads: a session, opened again whenever it ends.
 *
 * An nsqd that is killed forgets what it had handed over, also what it keeps on disk. One that was stopped in good order, or
 * only lost the connection, hands it over again. Whether it was killed or stopped cannot be asked; but that it was one of them
 * is seen where nobody listened meanwhile, and where the nsqd says that it was started at another time. Then what was held
 * here is sent again to the group, as it was: rather twice than never.
 */
import * as Effect from "effect/Effect"
import type { RawMessage } from "../../../messaging/Driver.ts"
import * as Command from "../protocol/Command.ts"
import type { ConnectOptions } from "../protocol/Connection.ts"
import { ask, connect } from "../protocol/Connection.ts"
import type { ConnectionLost, ServerError } from "../protocol/errors.ts"
import type { Message } from "../protocol/Message.ts"
import { untilConnected } from "./Link.ts"
import { Session } from "./Session.ts"

/** What a feed tells its subscription. */
export interface Listener {
  readonly opened: (session: Session) => void
  /** Answers what it held and nobody had settled. */
  readonly ended: (session: Session) => ReadonlyArray<RawMessage>
  /** Sends these to the group again. */
  readonly rescue: (messages: ReadonlyArray<RawMessage>) => void
  /** There is no session, and why. */
  readonly failed: (error: ServerError | ConnectionLost) => void
  readonly onMessage: (session: Session, message: Message) => void
  readonly onFailed: (session: Session, error: ServerError) => void
}

/** Where it reads. */
export interface Place {
  readonly topic: string
  readonly channel: string
  /** Whether it is the group's own topic. */
  readonly own: boolean
}

export class Feed {
  private readonly place: Place
  private readonly options: () => ConnectOptions
  private readonly listener: Listener
  /** Held when the last session ended. */
  private held: ReadonlyArray<RawMessage> = []
  /** Nobody listened since. */
  private refused = false
  /** When the nsqd that was spoken with last was started; `undefined` where it is not known. */
  private startedAt: number | undefined = undefined
  private readonly askStartTime: Effect.Effect<number | undefined>

  constructor(
    place: Place,
    options: () => ConnectOptions,
    listener: Listener,
    askStartTime: Effect.Effect<number | undefined>
  ) {
    this.place = place
    this.options = options
    this.listener = listener
    this.askStartTime = askStartTime
  }

  /** One session, from its beginning to its end. */
  private readonly once: Effect.Effect<ConnectionLost, ServerError | ConnectionLost> = Effect.suspend(() =>
    Effect.scoped(
      Effect.gen({ self: this }, function* () {
        const { listener, place } = this
        let session: Session | undefined
        const connection = yield* connect({
          ...this.options(),
          // Nothing comes before there is a session, since RDY begins at 0.
          onMessage: (message) => session && listener.onMessage(session, message),
          onFailed: (error) => session && listener.onFailed(session, error)
        })
        yield* ask(connection, Command.sub(place.topic, place.channel))
        const opened = new Session(connection, place.own)
        session = opened
        return yield* Effect.acquireUseRelease(
          Effect.sync(() => this.open(opened)),
          () => Effect.raceFirst(connection.closed, Effect.andThen(this.compareStartTimes, Effect.never)),
          () => Effect.sync(() => this.end(opened))
        )
      })
    )
  )

  private open(session: Session): void {
    if (this.refused) this.rescue()
    this.refused = false
    this.listener.opened(session)
  }

  /** Meanwhile messages come already. */
  private readonly compareStartTimes: Effect.Effect<void> = Effect.suspend(() =>
    Effect.map(this.askStartTime, (startedAt) => {
      const before = this.startedAt
      this.startedAt = startedAt ?? before
      if (before !== undefined && this.startedAt !== before) this.rescue()
      // It is the same process, or nobody knows.
      this.held = []
    })
  )

  /** Sends again what was held; also for an nsqd that is not waited for any more, of which nobody knows whether it has it. */
  rescue(): void {
    if (this.held.length > 0) this.listener.rescue(this.held)
    this.held = []
  }

  private end(session: Session): void {
    const held = this.listener.ended(session)
    // Of a session so short that nothing was compared, what was held before it counts too.
    if (!session.closing) this.held = [...this.held, ...held]
  }

  /** Opens sessions again and again. */
  readonly keep: Effect.Effect<never> = Effect.suspend(() => {
    const note = (error: ServerError | ConnectionLost) =>
      Effect.sync(() => {
        if (error._tag === "ConnectionLost" && error.refused) this.refused = true
        this.listener.failed(error)
      })
    return Effect.forever(
      this.once.pipe(
        Effect.tapError(note),
        Effect.retry(untilConnected),
        // The schedule never ends.
        Effect.orDie,
        Effect.tap(note),
        Effect.andThen(Effect.sleep("20 millis"))
      )
    )
  })
}
