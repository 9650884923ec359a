/** Envelopes as CloudEvents attributes and back, and names made of other names. */
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { readAttributes, writeAttributes } from "../../src/messaging/CloudEvents.ts"
import { derivedName, nameProblem } from "../../src/messaging/derivedName.ts"
import type { Envelope } from "../../src/messaging/Envelope.ts"

const defaults = { id: () => "made", topic: "t", timestamp: () => 7, correlationId: undefined }
const beside = { contentType: "application/json", traceparent: undefined, tracestate: undefined, headers: {} }

const roundTrip = (envelope: Envelope): Envelope => {
  const attributes = new Map<string, string>()
  writeAttributes(envelope, (name, value) => {
    assert.isFalse(attributes.has(name), name)
    assert.match(name, /^[a-z0-9]{1,20}$/)
    attributes.set(name, value)
  })
  return readAttributes((name) => attributes.get(name), defaults, { ...beside, contentType: envelope.contentType })
}

describe("CloudEvents attributes", () => {
  const text = fc.string({ unit: "binary" })
  const time = fc.integer({ min: -8.64e15, max: 8.64e15 })
  const count = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER })
  const optional = <A>(arbitrary: fc.Arbitrary<A>) => fc.option(arbitrary, { nil: undefined })
  const attempt = fc.record({ attempt: count, at: time, tag: text, message: text, host: text })
  const envelopes: fc.Arbitrary<Envelope> = fc.record({
    id: fc.string({ unit: "binary", minLength: 1 }),
    topic: text,
    source: text,
    key: optional(text),
    version: count,
    timestamp: time,
    contentType: text,
    attempt: count,
    traceparent: fc.constant(undefined),
    tracestate: fc.constant(undefined),
    correlationId: optional(text),
    headers: fc.constant({}),
    history: optional(fc.record({ firstFailedAt: time, attempts: fc.array(attempt, { maxLength: 3 }) })),
    death: optional(fc.record({ reason: fc.constantFrom("decision", "crashed"), cause: text, at: time })),
    replays: fc.nat()
  })

  it("any envelope comes back as it was", () => {
    fc.assert(fc.property(envelopes, (envelope) => assert.deepStrictEqual(roundTrip(envelope), envelope)))
  })

  it("what is missing or nonsense has a default", () => {
    const nothing = readAttributes(() => undefined, defaults, beside)
    assert.deepStrictEqual(nothing, {
      ...beside,
      id: "made",
      topic: "t",
      source: "",
      key: undefined,
      version: 1,
      timestamp: 7,
      attempt: 1,
      correlationId: undefined,
      history: undefined,
      death: undefined,
      replays: 0
    })
    for (const nonsense of ["", "1e20", "-3", "1.5", "NaN", "many"]) {
      const { attempt, history, death, replays, timestamp, version } = readAttributes(
        (name) => (name === "id" ? "i" : nonsense),
        defaults,
        beside
      )
      const said = { attempt, version, replays, history, death }
      assert.deepStrictEqual(
        said,
        { attempt: 1, version: 1, replays: 0, history: undefined, death: undefined },
        nonsense
      )
      assert.isTrue(Number.isFinite(timestamp))
    }
    const broken = { firstfailed: "2026-01-02T03:04:05Z", history: '[{"attempt":"?"}]' }
    const { history } = readAttributes((name) => Reflect.get(broken, name), defaults, beside)
    assert.deepStrictEqual(history, { firstFailedAt: Date.UTC(2026, 0, 2, 3, 4, 5), attempts: [] })
  })
})

describe("derived names", () => {
  const narrow = {
    separator: "..",
    longest: 64,
    allowed: { pattern: /^[a-zA-Z0-9._-]+$/, words: "letters, digits and . _ -" }
  }
  const wide = { separator: ":", longest: 255, reserved: /^amq\./ }
  const kinds: ReadonlyArray<ReadonlyArray<string>> = [[], ["dead"], ["retry", "1000"], ["retry", "2000"]]

  for (const [what, rules, unit] of [
    ["narrow", narrow, fc.constantFrom("a", "b", ".", "-", "_", "dead", "retry")],
    ["wide", wide, fc.constantFrom("a", ".", ":", "ü", "😀", "dead", "x".repeat(90))]
  ] as const) {
    it(`of different topics, groups and kinds are different, and fit (${what})`, () => {
      const name = fc
        .array(unit, { minLength: 1, maxLength: 6 })
        .map((parts) => parts.join(""))
        .filter((name) => nameProblem(rules, "group", name) === undefined)
      const parts = fc
        .tuple(name, name, fc.constantFrom(...kinds))
        .map(([topic, group, kind]) => [topic, group, ...kind])
      fc.assert(
        fc.property(parts, parts, (a, b) => {
          const [first, second] = [derivedName(rules, a), derivedName(rules, b)]
          assert.strictEqual(first === second, JSON.stringify(a) === JSON.stringify(b), `${a} and ${b}: ${first}`)
          assert.isAtMost(Buffer.byteLength(first), rules.longest)
        }),
        { numRuns: 2000 }
      )
    })
  }

  it("topic a.b of group c is not topic a of group b.c", () => {
    assert.strictEqual(derivedName(narrow, ["a.b", "c"]), "a.b..c")
    assert.strictEqual(derivedName(narrow, ["a", "b.c"]), "a..b.c")
  })

  it("long ones keep their beginning and end in a hash", () => {
    const name = derivedName(narrow, ["orders.placed", "g".repeat(80), "dead"])
    assert.match(name, /^orders\.placed\.\.g+\.\.\.\.[0-9a-f]{32}$/)
    assert.strictEqual(name.length, 64)
  })

  it("what a broker cannot have is said", () => {
    const says = (rules: typeof narrow | typeof wide, name: string) => nameProblem(rules, "topic", name)
    assert.match(says(narrow, "") ?? "", /must not be empty/)
    assert.match(says(narrow, "a b") ?? "", /letters, digits/)
    assert.match(says(narrow, "a..b") ?? "", /stands between the parts/)
    assert.match(says(narrow, "a.") ?? "", /begin or end/)
    assert.match(says(narrow, "a".repeat(65)) ?? "", /longer than 64/)
    assert.match(says(wide, "amq.direct") ?? "", /keeps to itself/)
    assert.match(says(wide, "tab\t") ?? "", /control character/)
    assert.match(says(wide, "half \udc00") ?? "", /half of a character/)
    assert.isUndefined(says(wide, "größe 😀/x"))
    assert.isUndefined(nameProblem(narrow, "group", "a".repeat(65)))
  })
})
