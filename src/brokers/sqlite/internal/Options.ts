/**
 * The options of the layers: one schema says what is allowed and how a wrong value is answered.
 */
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { format } from "effect/Formatter"
import * as Schema from "effect/Schema"
import { toMillis } from "../../../pool/Durations.ts"
import { InvalidOption } from "../../../pool/PoolError.ts"

/** What a commit survives: `FULL` a power loss, `NORMAL` the death of the process. */
export type Synchronous = "FULL" | "NORMAL"

export interface ClientOptions {
  /** The file; it is created where it does not exist, its folder is not. */
  readonly filename: string
  /**
   * What a commit survives. `FULL` (default): the loss of power. `NORMAL`: the death of the process (`kill -9`), while a loss
   * of power takes the last commits with it, never the file.
   */
  readonly synchronous?: Synchronous | undefined
  /** How long an operation waits while another process or transaction writes. Default: 5 seconds. */
  readonly lockTimeout?: Duration.Input | undefined
}

export interface BrokerOptions extends ClientOptions {
  /** Longest time between two looks for what other processes have written, and for leases that have ended. Default: 1 second. */
  readonly pollInterval?: Duration.Input | undefined
  /**
   * For how long the id of a published message is remembered, so that publishing it again has no effect. Default: ids are not
   * remembered, because it makes publishing three to four times as expensive.
   */
  readonly dedupeWindow?: Duration.Input | undefined
  /** The largest payload in bytes. Default: 16 MiB. Each is written in one turn of the event loop. */
  readonly maxMessageBytes?: number | undefined
  /**
   * By topic: for how long a copy of each message is kept, so that a group that is created later can read it with `replay`. It
   * is noted in the file, so all its processes keep them; "0 seconds" ends it. Default: what the file says, at first nothing.
   */
  readonly retention?: Readonly<Record<string, Duration.Input>> | undefined
}

/** Checked options with defaults filled in; times in milliseconds. */
export interface ClientSettings {
  readonly filename: string
  readonly synchronous: Synchronous
  readonly lockTimeout: number
}

export interface BrokerSettings extends ClientSettings {
  readonly pollInterval: number
  readonly dedupeWindow: number | undefined
  readonly maxMessageBytes: number
  readonly retention: ReadonlyMap<string, number>
}

const span = (meaning: string, least: "zero" | "more than zero") =>
  Schema.Unknown.check(
    Schema.makeFilter((input) => {
      const millis = toMillis(input)
      return millis !== undefined && Number.isFinite(millis) && (least === "zero" ? millis >= 0 : millis > 0)
        ? undefined
        : `must be a finite duration of ${least === "zero" ? "zero or more" : least} (${meaning}), such as "30 seconds"; got ${format(input)}`
    })
  )

const clientFields = {
  filename: Schema.String.check(
    Schema.makeFilter((name) => {
      if (name.trim() === "") return "must not be empty: it is the file that keeps the data"
      return name === ":memory:" || name.startsWith("file:")
        ? `must be the path of a file, got "${name}": what is in memory cannot be shared by two connections`
        : undefined
    })
  ),
  synchronous: Schema.optional(
    Schema.Unknown.check(
      Schema.makeFilter((value) =>
        value === "FULL" || value === "NORMAL" ? undefined : `must be "FULL" or "NORMAL", got ${format(value)}`
      )
    )
  ),
  lockTimeout: Schema.optional(span("how long to wait for other writers", "more than zero"))
}

const brokerFields = {
  ...clientFields,
  pollInterval: Schema.optional(span("the longest time between two looks at the file", "more than zero")),
  dedupeWindow: Schema.optional(span("how long the id of a message is remembered", "more than zero")),
  maxMessageBytes: Schema.optional(
    Schema.Number.check(
      Schema.makeFilter((bytes) =>
        Number.isInteger(bytes) && bytes >= 1 && bytes <= 500_000_000
          ? undefined
          : `must be a whole number of bytes from 1 to 500,000,000, which is what fits into a row of SQLite; got ${bytes}`
      )
    )
  ),
  retention: Schema.optional(Schema.Record(Schema.String, span("how long messages are kept for new groups", "zero")))
}

const decodeClient = Schema.decodeUnknownExit(Schema.Struct(clientFields))
const decodeBroker = Schema.decodeUnknownExit(Schema.Struct(brokerFields))

/** Durations that were checked, so each has a value. */
const millis = (input: Duration.Input): number => toMillis(input) ?? 0

const orDie = <A>(operation: string, decoded: Exit.Exit<unknown, unknown>, settings: () => A): Effect.Effect<A> => {
  if (Exit.isSuccess(decoded)) return Effect.sync(settings)
  const problem = String(Cause.squash(decoded.cause)).replace(/^SchemaError\(([\s\S]*)\)$/, "$1")
  return Effect.die(new InvalidOption({ operation, problem }))
}

const clientSettings = (options: ClientOptions): ClientSettings => ({
  filename: options.filename,
  synchronous: options.synchronous ?? "FULL",
  lockTimeout: millis(options.lockTimeout ?? "5 seconds")
})

/** Checks the options of a client; a wrong one is a defect, with a sentence for each. */
export const checkClient = (operation: string, options: ClientOptions): Effect.Effect<ClientSettings> =>
  orDie(operation, decodeClient(options, { errors: "all" }), () => clientSettings(options))

/** Checks the options of a broker; a wrong one is a defect, with a sentence for each. */
export const checkBroker = (operation: string, options: BrokerOptions): Effect.Effect<BrokerSettings> =>
  orDie(operation, decodeBroker(options, { errors: "all" }), () => ({
    ...clientSettings(options),
    pollInterval: millis(options.pollInterval ?? "1 second"),
    dedupeWindow: options.dedupeWindow === undefined ? undefined : millis(options.dedupeWindow),
    maxMessageBytes: options.maxMessageBytes ?? 16 * 1024 * 1024,
    retention: new Map(Object.entries(options.retention ?? {}).map(([topic, input]) => [topic, millis(input)]))
  }))
