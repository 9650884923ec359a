/**
 * Which nsqd there are, and which of them have a topic: those that the options name, and those that the nsqlookupd know.
 *
 * What an nsqlookupd has once said holds until another answer: while none can be asked, all goes on as it was. An nsqd that is
 * not listed any more is kept for a while, since one that is restarted is not listed either.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type { HttpError, Producer } from "../protocol/Lookup.ts"
import * as Lookup from "../protocol/Lookup.ts"
import type { NodeAddress, Settings } from "./Settings.ts"
import { keyOf } from "./Settings.ts"

interface Known extends NodeAddress {
  /** Named by the options. */
  readonly fixed: boolean
  topics: ReadonlySet<string>
  /** When an nsqlookupd listed it last, in milliseconds since 1970. */
  listedAt: number
}

/** Milliseconds that an nsqd is kept after it was listed for the last time. */
const kept = 10 * 60_000

export class Nodes {
  /** Why no nsqlookupd could be asked, as a sentence; none where one was, or where there is none. */
  problem: string | undefined = undefined
  private readonly settings: Settings
  private readonly known = new Map<string, Known>()
  private readonly listeners = new Set<() => void>()

  constructor(settings: Settings) {
    this.settings = settings
    for (const address of settings.nsqd) {
      this.known.set(keyOf(address), { ...address, fixed: true, topics: new Set(), listedAt: 0 })
    }
  }

  /** Those to publish to. */
  get targets(): ReadonlyArray<NodeAddress> {
    const all = [...this.known.values()]
    return this.settings.nsqd.length > 0 ? all.filter(({ fixed }) => fixed) : all
  }

  /** Those to consume a topic from: the targets, since the topic was declared there, and all that are known to have it. */
  having(topics: ReadonlyArray<string>): ReadonlyArray<NodeAddress> {
    const targets = new Set(this.targets)
    return [...this.known.values()].filter(
      (known) => targets.has(known) || topics.some((topic) => known.topics.has(topic))
    )
  }

  get all(): ReadonlyArray<NodeAddress> {
    return [...this.known.values()]
  }

  /** Calls when others are known; the returned function ends that. */
  onChange(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Asks all nsqlookupd; one answer is enough. */
  readonly refresh: Effect.Effect<void> = Effect.suspend(() => {
    const { connectTimeout, lookupd } = this.settings
    if (lookupd.length === 0) return Effect.void
    const all = Effect.forEach(lookupd, (url) => Effect.result(Lookup.nodes(url, connectTimeout)), {
      concurrency: "unbounded"
    })
    return Effect.zipWith(all, Clock.currentTimeMillis, (answers, now) => {
      const errors: Array<HttpError> = []
      const producers: Array<Producer> = []
      for (const answer of answers) {
        if (answer._tag === "Success") producers.push(...answer.success)
        else errors.push(answer.failure)
      }
      this.problem = errors.length < lookupd.length ? undefined : errors[0]?.message
      // Not all have answered, so what is missing may be with the others.
      this.update(producers, errors.length === 0, now)
    })
  })

  /** Asks now and then. */
  readonly keep: Effect.Effect<never> = Effect.suspend(() => {
    const { lookupInterval } = this.settings
    const pause = Effect.suspend(() => Effect.sleep(lookupInterval * (0.75 + Math.random() / 2)))
    return Effect.forever(Effect.andThen(pause, this.refresh))
  })

  private update(producers: ReadonlyArray<Producer>, complete: boolean, now: number): void {
    let changed = false
    for (const [key, producers_] of Map.groupBy(producers, ({ host, tcpPort }) => `${host}:${tcpPort}`)) {
      const [first] = producers_
      if (first === undefined) continue
      const http = `${this.settings.lookupd[0]?.startsWith("https:") ? "https" : "http"}://${hostOf(first)}`
      const topics = new Set(producers_.flatMap(({ topics }) => topics))
      const known = this.known.get(key)
      if (known === undefined) {
        const address = { host: first.host, port: first.tcpPort, http }
        this.known.set(key, { ...address, fixed: false, topics, listedAt: now })
        changed = true
      } else {
        changed ||= topics.size !== known.topics.size || !topics.isSubsetOf(known.topics)
        known.topics = topics
        known.listedAt = now
        if (known.http === undefined) {
          this.known.delete(key)
          this.known.set(key, { ...known, http })
        }
      }
    }
    for (const [key, { fixed, listedAt }] of this.known) {
      if (!complete || fixed || now - listedAt <= kept) continue
      this.known.delete(key)
      changed = true
    }
    if (changed) for (const listener of this.listeners) listener()
  }
}

const hostOf = ({ host, httpPort }: Producer): string => `${host.includes(":") ? `[${host}]` : host}:${httpPort}`
