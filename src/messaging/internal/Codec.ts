/**
 * Payloads as bytes: JSON by the schema's own codec, with the older versions that a topic can still read.
 */
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Schema from "effect/Schema"
import { InvalidOption } from "../../pool/WorkerPool.ts"
import type { RawMessage } from "../Driver.ts"
import { EncodeError, Undecodable, UnknownVersion } from "../TopicError.ts"

/**
 * The requirements of the schemas are in the types of the topic.
 *
 * Where nothing of a schema waits for anything, the work is done when the function is called, and what it throws is thrown
 * there: call it inside an effect.
 */
export interface Codec<A> {
  readonly encode: (value: A) => Effect.Effect<Uint8Array, EncodeError>
  readonly decode: (message: RawMessage) => Effect.Effect<A, Undecodable | UnknownVersion>
}

interface Options {
  readonly schema: Schema.Constraint
  readonly version: number
  readonly upcast?:
    | Readonly<Record<number, { readonly schema: Schema.Constraint; readonly convert: (old: never) => unknown }>>
    | undefined
}

type Decoder<A> = (json: unknown) => Effect.Effect<A, Schema.SchemaError>

// Bytes that are no UTF-8 are no JSON either: replaced by a mark they would go unseen inside a string.
const decoder = new TextDecoder("utf-8", { fatal: true })

export const makeCodec = <A>(topic: string, options: Options): Codec<A> => {
  const problem = invalid(topic, options)
  if (problem !== undefined) {
    const wrong = Effect.die(new InvalidOption({ operation: "Topic.make", problem }))
    return { encode: () => wrong, decode: () => wrong }
  }
  const current = Schema.toCodecJson(options.schema)
  // The requirements are the topic's own; the signature there has them.
  const toJson = Schema.encodeUnknownEffect(current) as (value: unknown) => Effect.Effect<unknown, Schema.SchemaError>
  const decoders = new Map<number, Decoder<A>>([[options.version, Schema.decodeUnknownEffect(current) as Decoder<A>]])
  for (const [version, { convert, schema }] of Object.entries(options.upcast ?? {})) {
    const decodeOld = Schema.decodeUnknownEffect(Schema.toCodecJson(schema)) as Decoder<never>
    decoders.set(Number(version), (json) => Effect.mapEager(decodeOld(json), (old) => convert(old) as A))
  }
  return {
    encode: (value) =>
      Effect.mapEager(
        Effect.mapErrorEager(
          toJson(value),
          (error) => new EncodeError({ topic, problem: error.message, cause: error })
        ),
        (json) => Buffer.from(JSON.stringify(json))
      ),
    decode: ({ body, envelope }) => {
      const { id, version } = envelope
      const decode = decoders.get(version)
      if (decode === undefined)
        return Effect.fail(new UnknownVersion({ topic, id, version, known: [...decoders.keys()] }))
      let json: unknown
      try {
        json = JSON.parse(decoder.decode(body))
      } catch (cause) {
        return Effect.fail(new Undecodable({ topic, id, problem: `it is not JSON (${body.byteLength} bytes)`, cause }))
      }
      return Effect.mapErrorEager(
        decode(json),
        (error) => new Undecodable({ topic, id, problem: error.message, cause: error })
      )
    }
  }
}

const invalid = (topic: string, { upcast, version }: Options): string | undefined => {
  if (typeof topic !== "string" || topic.trim() === "") return "the name of a topic must not be empty"
  if (!Number.isInteger(version) || version < 1)
    return `version of topic "${topic}" must be a whole number from 1, got ${format(version)}`
  const notOlder = Object.keys(upcast ?? {}).find(
    (old) => !Number.isInteger(Number(old)) || Number(old) >= version || Number(old) < 1
  )
  return notOlder === undefined
    ? undefined
    : `topic "${topic}" has an upcast from version ${notOlder}, which is not older than its version ${version}`
}
