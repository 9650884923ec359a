/** What a random program over consumers is made of: steps for itself and for the handlers of what it publishes. */
import * as fc from "fast-check"
import type { FaultyBroker } from "millrace/testing"

/** Milliseconds of the test clock; all times are multiples of it. */
export const tick = 100

export type Tag = "Again" | "Later" | "Refused" | "Unwanted" | "Throws"
export type Step =
  | { readonly do: "wait" | "stay"; readonly millis: number }
  | { readonly do: "fail"; readonly tag: Tag }
  | { readonly do: "die" | "interruptItself" | "isInterrupted" | "heal" | "harm" }
  | { readonly do: "publish"; readonly topic: number; readonly messages: ReadonlyArray<Message> }
  | { readonly do: "join"; readonly topic: number; readonly options: Options }
  | { readonly do: "pause" | "resume"; readonly member: number }
  | { readonly do: "resize"; readonly member: number; readonly concurrency: number }
  | { readonly do: "drain" | "close"; readonly member: number; readonly deadline: number; readonly waits: boolean }
  | { readonly do: "replay" | "purge"; readonly topic: number; readonly limit: number }

export interface Message {
  readonly key: string | undefined
  /** Nobody can decode the others. */
  readonly isReadable: boolean
  /** What its handler does each time that it runs, until nothing is left to do: then it succeeds. */
  readonly runs: ReadonlyArray<ReadonlyArray<Step>>
}

const few = fc.integer({ min: 1, max: 4 })
const topic = fc.nat(1)
const member = fc.nat(5)
const short = fc.nat(10).map((ticks) => ticks * tick)
const decision = fc.constantFrom("again", "deadLetter", "drop")

/** Shutdown grace is not 0: then the broker's answers are not waited for. */
export const options = fc.record({
  concurrency: few,
  prefetch: fc.integer({ min: 4, max: 9 }),
  prefetchPerKey: fc.constantFrom(undefined, 1, 2),
  prefetchBytes: fc.constantFrom(undefined, undefined, 1, 20),
  maxAttempts: few,
  timeout: fc.constantFrom(undefined, undefined, 2 * tick, 10 * tick),
  rateLimit: fc.constantFrom(undefined, undefined, undefined, { limit: 2, interval: tick }),
  lease: fc.constantFrom(12 * tick, 30 * tick),
  shutdownDeadline: short,
  shutdownGrace: short.map((millis) => millis + tick),
  onUndecodable: fc.constantFrom("deadLetter" as const, "stop" as const),
  onTimeout: decision,
  onDefect: decision,
  /** Where there is no order. */
  batch: fc.option(fc.record({ size: few, linger: short, together: fc.boolean() }), { nil: undefined })
})
export type Options = typeof options extends fc.Arbitrary<infer A> ? A : never

const is = <T extends string>(...tags: ReadonlyArray<T>) => fc.constantFrom(...tags)
export const { step } = fc.letrec<{ step: Step; message: Message }>((tie) => ({
  step: fc.oneof(
    { depthSize: "small", maxDepth: 4, withCrossShrink: true },
    {
      weight: 1,
      arbitrary: fc.record({
        do: is("wait", "stay"),
        millis: fc.oneof(
          short,
          short.map((n) => 6 * n)
        )
      })
    },
    {
      weight: 1,
      arbitrary: fc.record({ do: is("fail"), tag: is<Tag>("Again", "Later", "Refused", "Unwanted", "Throws") })
    },
    { weight: 1, arbitrary: fc.record({ do: is("die", "interruptItself", "isInterrupted", "heal", "harm") }) },
    { weight: 1, arbitrary: fc.record({ do: is("pause", "resume"), member }) },
    { weight: 1, arbitrary: fc.record({ do: is("resize"), member, concurrency: few }) },
    { weight: 2, arbitrary: fc.record({ do: is("drain", "close"), member, deadline: short, waits: fc.boolean() }) },
    { weight: 1, arbitrary: fc.record({ do: is("replay", "purge"), topic, limit: few }) },
    { weight: 1, arbitrary: fc.record({ do: is("join"), topic, options }) },
    {
      weight: 4,
      arbitrary: fc.record({
        do: is("publish"),
        topic,
        messages: fc.array(tie("message"), { minLength: 1, maxLength: 4, size: "max" })
      })
    }
  ),
  message: fc.record({
    key: fc.constantFrom("a", "a", "b", undefined),
    isReadable: fc.nat(7).map((n) => n < 7),
    runs: fc.array(fc.array(tie("step"), { maxLength: 5, size: "max" }), { maxLength: 3, size: "max" })
  })
}))

const faults: FaultyBroker.RatesByOperation = {
  publish: { failBefore: 0.1, failAfter: 0.1, hangAfter: 0.05, partial: 0.1, slow: 0.1 },
  take: { failBefore: 0.1, failAfter: 0.1, hangBefore: 0.05, slow: 0.2 },
  settle: { failBefore: 0.1, failAfter: 0.1, hangBefore: 0.05, hangAfter: 0.05, partial: 0.1, slow: 0.2 },
  renew: { failBefore: 0.2, failAfter: 0.1, hangBefore: 0.1, partial: 0.1, lose: 0.1 },
  setCredit: { failBefore: 0.2, hangBefore: 0.1, slow: 0.2 },
  subscribe: { failBefore: 0.1, failAfter: 0.1, slow: 0.2 },
  all: { failBefore: 0.1, failAfter: 0.1 }
}

/** Something goes wrong now and then; or one thing most of the time. */
export const someFaults = fc.constantFrom<FaultyBroker.RatesByOperation>(
  faults,
  { ...faults, renew: { failBefore: 0.9, lose: 0.05 } },
  { ...faults, settle: { failBefore: 0.2, failAfter: 0.2, hangBefore: 0.1, hangAfter: 0.1, partial: 0.2, slow: 0.2 } },
  { ...faults, publish: { failBefore: 0.3, failAfter: 0.3, hangAfter: 0.2 } }
)

/** Of the members that come in the end. */
export const plain: Options = {
  ...{ concurrency: 2, prefetch: 4, prefetchPerKey: undefined, prefetchBytes: undefined, maxAttempts: 3 },
  ...{ timeout: undefined, rateLimit: undefined, lease: 30 * tick, shutdownDeadline: tick, shutdownGrace: tick },
  ...{ onUndecodable: "deadLetter", onTimeout: "again", onDefect: "again", batch: undefined }
}
