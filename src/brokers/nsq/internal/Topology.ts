/**
 * The channels that this process has declared, and where they are known to exist.
 *
 * An nsqd that has a topic without any channel keeps its messages for the first that comes; one that lacks only some of the
 * channels keeps nothing for those. So whatever was declared is declared at each nsqd before messages go there. Subscribing
 * for a moment does it, over the same port and with the same rights as everything else.
 */
import * as Effect from "effect/Effect"
import * as Command from "../protocol/Command.ts"
import { ask, connect } from "../protocol/Connection.ts"
import type { ConnectionLost, ServerError } from "../protocol/errors.ts"
import { connectOptions } from "./connectOptions.ts"
import type { NodeAddress, Settings } from "./Settings.ts"
import { keyOf } from "./Settings.ts"

export interface Channel {
  readonly topic: string
  readonly channel: string
}

export class Topology {
  private readonly settings: Settings
  /** By topic. */
  private readonly wanted = new Map<string, Set<string>>()
  /** By nsqd, as `topic channel`. */
  private readonly there = new Map<string, Set<string>>()

  constructor(settings: Settings) {
    this.settings = settings
  }

  want(topic: string, channels: ReadonlyArray<string>): void {
    const wanted = this.wanted.get(topic) ?? new Set()
    for (const channel of channels) wanted.add(channel)
    this.wanted.set(topic, wanted)
  }

  /** It was removed, here or by another. */
  forget(topic: string, channel: string): void {
    this.wanted.get(topic)?.delete(channel)
    for (const there of this.there.values()) there.delete(`${topic} ${channel}`)
  }

  /** What an nsqd has after it was away is not known. */
  forgetNode(address: NodeAddress): void {
    this.there.delete(keyOf(address))
  }

  /** Declares at an nsqd what is wanted and not known to be there; of one topic, or of all. */
  declareAt(address: NodeAddress, topic?: string): Effect.Effect<void, ServerError | ConnectionLost> {
    return Effect.suspend(() => {
      const key = keyOf(address)
      const missing: Array<Channel> = []
      for (const [name, channels] of this.wanted) {
        if (topic !== undefined && topic !== name) continue
        for (const channel of channels) {
          if (!this.there.get(key)?.has(`${name} ${channel}`)) missing.push({ topic: name, channel })
        }
      }
      return Effect.forEach(missing, (channel) => this.create(address, channel), { concurrency: 8, discard: true })
    })
  }

  private create(address: NodeAddress, { channel, topic }: Channel): Effect.Effect<void, ServerError | ConnectionLost> {
    const subscribe = Effect.flatMap(connect(connectOptions(this.settings, address)), (connection) =>
      ask(connection, Command.sub(topic, channel))
    )
    return Effect.map(Effect.scoped(subscribe), () => {
      const key = keyOf(address)
      const there = this.there.get(key) ?? new Set()
      there.add(`${topic} ${channel}`)
      this.there.set(key, there)
    })
  }
}
