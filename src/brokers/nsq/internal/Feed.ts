/**
 * A topic at one nsqd that a subscription reads: a session, opened again whenever it ends.
 *
 * An nsqd that is killed forgets what it had handed over, also what it keeps on disk. One that was stopped in good order, or
 * only lost the connection, hands it over again. Which of these it was cannot be asked; but that nobody listened meanwhile
 * says that it was not the last. Then what was held here is sent again to the group, as it was: rather twice than never.
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

  constructor(place: Place, options: () => ConnectOptions, listener: Listener) {
    this.place = place
    this.options = options
    this.listener = listener
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
          () => connection.closed,
          () => Effect.sync(() => this.end(opened))
        )
      })
    )
  )

  private open(session: Session): void {
    if (this.held.length > 0 && this.refused) this.listener.rescue(this.held)
    this.held = []
    this.refused = false
    this.listener.opened(session)
  }

  private end(session: Session): void {
    const held = this.listener.ended(session)
    if (!session.closing) this.held = held
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
