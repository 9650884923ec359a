/** The parts of the client that need no server: frames, messages, credit, the bytes of an envelope. */
import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { NsqProtocol } from "millrace/nsq"

const { FrameError, FrameParser, readMessage } = NsqProtocol

const frame = (type: number, data: Uint8Array): Buffer => {
  const head = Buffer.alloc(8)
  head.writeInt32BE(data.byteLength + 4, 0)
  head.writeInt32BE(type, 4)
  return Buffer.concat([head, data])
}

/** Pushes the bytes cut at these places. */
const parse = (bytes: Buffer, cuts: ReadonlyArray<number>, maxBytes = 1_000_000) => {
  const frames: Array<{ readonly type: number; readonly data: Buffer }> = []
  const parser = new FrameParser(maxBytes, (type, data) => frames.push({ type, data: Buffer.from(data) }))
  let from = 0
  for (const cut of [...cuts.map((cut) => cut % (bytes.byteLength + 1)).toSorted((a, b) => a - b), bytes.byteLength]) {
    const problem = parser.push(bytes.subarray(from, cut))
    from = cut
    if (problem !== undefined) return { frames, problem, parser }
  }
  return { frames, problem: undefined, parser }
}

describe("frames of nsqd", () => {
  it("come out whole and in order, wherever packets end", () => {
    const frames = fc.array(fc.record({ type: fc.integer({ min: 0, max: 2 }), data: fc.uint8Array({ maxLength: 60 }) }))
    fc.assert(
      fc.property(frames, fc.array(fc.nat()), (frames, cuts) => {
        const bytes = Buffer.concat(frames.map(({ data, type }) => frame(type, data)))
        const parsed = parse(bytes, cuts)
        assert.isUndefined(parsed.problem)
        assert.deepStrictEqual(
          parsed.frames.map(({ data, type }) => ({ type, data: [...data] })),
          frames.map(({ data, type }) => ({ type, data: [...data] }))
        )
      }),
      { numRuns: 1000 }
    )
  })

  it("of any bytes at all are frames or a typed error, and the same wherever packets end", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.array(fc.nat()), (bytes, cuts) => {
        const whole = parse(Buffer.from(bytes), [], 100)
        const cut = parse(Buffer.from(bytes), cuts, 100)
        assert.deepStrictEqual(cut.frames, whole.frames)
        assert.strictEqual(cut.problem?.message, whole.problem?.message)
        if (whole.problem !== undefined) assert.instanceOf(whole.problem, FrameError)
        for (const { data } of whole.frames) readMessage(data)
      }),
      { numRuns: 5000 }
    )
  })

  it("that are broken in one place are read up to there", () => {
    const good = frame(2, new Uint8Array(40))
    fc.assert(
      fc.property(fc.nat({ max: 7 }), fc.integer({ min: 1, max: 255 }), fc.array(fc.nat()), (at, flip, cuts) => {
        const bad = Buffer.from(good)
        bad[at] = (bad[at] ?? 0) ^ flip
        const { frames } = parse(Buffer.concat([good, bad, good]), cuts, 1000)
        assert.isAtLeast(frames.length, 1)
      })
    )
  })

  it("over the limit are refused before they are there, and nothing is read afterwards", () => {
    const { frames, parser, problem } = parse(frame(2, new Uint8Array(101)).subarray(0, 8), [], 100)
    assert.strictEqual(problem?.kind, "oversized")
    assert.deepStrictEqual(frames, [])
    assert.strictEqual(parser.push(frame(0, new Uint8Array(1))), problem)
    assert.strictEqual(parse(frame(2, new Uint8Array(100)), [], 100).frames.length, 1)
    assert.strictEqual(parse(frame(3, new Uint8Array(1)), []).problem?.kind, "broken")
    assert.strictEqual(parse(Buffer.from("HTTP/1.1 400 Bad Request"), []).problem?.kind, "broken")
    assert.strictEqual(parse(Buffer.from([0, 0, 0, 3, 0, 0, 0, 0]), []).problem?.kind, "broken")
  })
})

describe("messages of nsqd", () => {
  it("have a time, a count, an id and a body, or are a typed error", () => {
    const data = Buffer.alloc(29)
    data.writeBigInt64BE(1_700_000_000_123_456_789n, 0)
    data.writeUInt16BE(7, 8)
    data.write("0123456789abcdef", 10, "latin1")
    data.write("xyz", 26)
    const message = readMessage(data)
    if (message instanceof FrameError) return assert.fail(message.message)
    assert.deepStrictEqual(
      [message.timestamp, message.attempts, message.id],
      [1_700_000_000_123, 7, "0123456789abcdef"]
    )
    assert.strictEqual(message.body.toString(), "xyz")
    assert.instanceOf(readMessage(data.subarray(0, 25)), FrameError)
  })
})
