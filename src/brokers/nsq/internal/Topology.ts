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

  /** Answers those that were not wanted before. */
  want(topic: string, channels: ReadonlyArray<string>): ReadonlyArray<string> {
    const wanted = this.wanted.get(topic) ?? new Set()
    const added = channels.filter((channel) => !wanted.has(channel))
    for (const channel of added) wanted.add(channel)
    this.wanted.set(topic, wanted)
    return added
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

  /** Declares channels of a topic at an nsqd, but for those that are known to be there. */
  declareAt(
    address: NodeAddress,
    topic: string,
    channels: ReadonlyArray<string>
  ): Effect.Effect<void, ServerError | ConnectionLost> {
    return Effect.suspend(() => {
      // No others of the topic, which may have been refused.
      const missing = channels.filter((channel) => !this.isThere(address, topic, channel))
      return Effect.forEach(missing, (channel) => this.create(address, { topic, channel }), {
        concurrency: 8,
        discard: true
      })
    })
  }

  private isThere(address: NodeAddress, topic: string, channel: string): boolean {
    return this.there.get(keyOf(address))?.has(`${topic} ${channel}`) ?? false
  }

  /**
   * Declares all that is wanted at an nsqd, also what is wanted only since it began, and then does `last` in one step with
   * having seen that nothing is missing. One channel that the server refuses holds up nothing else.
   */
  declareAll(address: NodeAddress, last: () => void): Effect.Effect<void, ConnectionLost> {
    const refused = new Set<string>()
    const round: Effect.Effect<void, ConnectionLost> = Effect.suspend(() => {
      const missing = [...this.wanted]
        .flatMap(([topic, channels]) => [...channels].map((channel) => ({ topic, channel })))
        .filter(({ channel, topic }) => !this.isThere(address, topic, channel) && !refused.has(`${topic} ${channel}`))
      if (missing.length === 0) return Effect.sync(last)
      const declare = (channel: Channel) =>
        Effect.catchTag(this.create(address, channel), "ServerError", (error) => {
          refused.add(`${channel.topic} ${channel.channel}`)
          const name = `channel "${channel.channel}" of topic "${channel.topic}"`
          return Effect.logWarning(
            `NSQ: nsqd ${keyOf(address)} refused ${name}, so it may miss messages: ${error.message}`
          )
        })
      return Effect.andThen(Effect.forEach(missing, declare, { concurrency: 8, discard: true }), round)
    })
    return round
  }

  private create(address: NodeAddress, { channel, topic }: Channel): Effect.Effect<void, ServerError | ConnectionLost> {
    const subscribe = Effect.flatMap(connect(connectOptions(this.settings, address)), (connection) =>
      ask(connection, Command.sub(topic, channel))
    )
    // A channel with as many consumers as the server allows is there.
    const isFull = (error: ServerError | ConnectionLost) =>
      error._tag === "ServerError" && error.code === "E_SUB_FAILED" && error.detail.includes("exceeds limit")
    const declared = Effect.catchIf(Effect.scoped(subscribe), isFull, () => Effect.void)
    return Effect.map(declared, () => {
      const key = keyOf(address)
      const there = this.there.get(key) ?? new Set()
      there.add(`${topic} ${channel}`)
      this.there.set(key, there)
    })
  }
}
