/** The HTTP side of NSQ: which nsqd there are, and what is in them. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** A question by HTTP was not answered, or with an error. */
export class HttpError extends Schema.TaggedError<HttpError>("millrace/nsq/HttpError")("HttpError", {
  url: Schema.String,
  /** Of the answer; `undefined` where there was none. */
  status: Schema.UndefinedOr(Schema.Number),
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.url}: ${this.detail}`
  }
}

/** An nsqd that an nsqlookupd knows. */
export interface Producer {
  readonly host: string
  readonly tcpPort: number
  readonly httpPort: number
  readonly topics: ReadonlyArray<string>
}

const Nodes = Schema.Struct({
  producers: Schema.Array(
    Schema.Struct({
      broadcast_address: Schema.String,
      tcp_port: Schema.Number,
      http_port: Schema.Number,
      tombstones: Schema.optional(Schema.Array(Schema.Boolean)),
      topics: Schema.optional(Schema.NullOr(Schema.Array(Schema.String)))
    })
  )
})

const Producers = Schema.Struct({
  producers: Schema.Array(
    Schema.Struct({ broadcast_address: Schema.String, tcp_port: Schema.Number, http_port: Schema.Number })
  )
})

/** The nsqd that an nsqlookupd knows, each with its topics; those that an operator has set aside are left out. */
export const nodes = (lookupd: string, timeout = 5000): Effect.Effect<ReadonlyArray<Producer>, HttpError> =>
  Effect.map(getJson(Nodes, `${lookupd}/nodes`, timeout), ({ producers }) =>
    producers.map((producer) => ({
      host: producer.broadcast_address,
      tcpPort: producer.tcp_port,
      httpPort: producer.http_port,
      topics: (producer.topics ?? []).filter((_, index) => producer.tombstones?.[index] !== true)
    }))
  )

/** The nsqd that have a topic; none where nobody has it. */
export const lookup = (
  lookupd: string,
  topic: string,
  timeout = 5000
): Effect.Effect<ReadonlyArray<Producer>, HttpError> =>
  getJson(Producers, `${lookupd}/lookup?topic=${encodeURIComponent(topic)}`, timeout).pipe(
    Effect.map(({ producers }) =>
      producers.map((producer) => ({
        host: producer.broadcast_address,
        tcpPort: producer.tcp_port,
        httpPort: producer.http_port,
        topics: [topic]
      }))
    ),
    Effect.catchIf(
      ({ status }) => status === 404,
      () => Effect.succeed([])
    )
  )

const Stats = Schema.Struct({
  topics: Schema.NullOr(
    Schema.Array(
      Schema.Struct({
        topic_name: Schema.String,
        depth: Schema.Number,
        backend_depth: Schema.Number,
        channels: Schema.NullOr(
          Schema.Array(
            Schema.Struct({
              channel_name: Schema.String,
              depth: Schema.Number,
              backend_depth: Schema.Number,
              in_flight_count: Schema.Number,
              deferred_count: Schema.Number
            })
          )
        )
      })
    )
  )
})

export type TopicStats = NonNullable<(typeof Stats.Type)["topics"]>[number]

/** What an nsqd has of a topic; `undefined` where it has not. */
export const stats = (nsqd: string, topic: string, timeout = 5000): Effect.Effect<TopicStats | undefined, HttpError> =>
  Effect.map(
    getJson(
      Stats,
      `${nsqd}/stats?format=json&include_clients=false&include_mem=false&topic=${encodeURIComponent(topic)}`,
      timeout
    ),
    ({ topics }) => topics?.find(({ topic_name }) => topic_name === topic)
  )

/** A setting of an nsqd, such as `mem_queue_size`; not all servers tell everybody. Durations are nanoseconds. */
export const config = (nsqd: string, option: string, timeout = 5000): Effect.Effect<number, HttpError> =>
  getJson(Schema.Number, `${nsqd}/config/${option}`, timeout)

/** When an nsqd was started, in seconds since 1970: another time is another process. */
export const startTime = (nsqd: string, timeout = 5000): Effect.Effect<number, HttpError> =>
  Effect.map(getJson(Info, `${nsqd}/info`, timeout), ({ start_time }) => start_time)

const Info = Schema.Struct({ start_time: Schema.Number })

/** Deletes a channel with what is in it; that there is none is no error. */
export const deleteChannel = (nsqd: string, topic: string, channel: string, timeout = 5000) =>
  post(`${nsqd}/channel/delete?topic=${encodeURIComponent(topic)}&channel=${encodeURIComponent(channel)}`, timeout)

/** Deletes a topic with what is in it; that there is none is no error. */
export const deleteTopic = (nsqd: string, topic: string, timeout = 5000) =>
  post(`${nsqd}/topic/delete?topic=${encodeURIComponent(topic)}`, timeout)

const post = (url: string, timeout: number): Effect.Effect<void, HttpError> =>
  fetchText(url, timeout, "POST").pipe(
    Effect.asVoid,
    Effect.catchIf(
      ({ status }) => status === 404,
      () => Effect.void
    )
  )

const getJson = <A>(schema: Schema.Codec<A, unknown>, url: string, timeout: number): Effect.Effect<A, HttpError> =>
  Effect.flatMap(fetchText(url, timeout, "GET"), (text) =>
    Schema.decodeUnknownEffect(Schema.fromJsonString(schema))(text).pipe(
      Effect.mapError(
        (error) => new HttpError({ url, status: 200, detail: `the answer cannot be read: ${error.message}` })
      )
    )
  )

const fetchText = (url: string, timeout: number, method: "GET" | "POST"): Effect.Effect<string, HttpError> =>
  Effect.tryPromise({
    try: async (signal) => {
      const answer = await fetch(url, { method, signal: AbortSignal.any([signal, AbortSignal.timeout(timeout)]) })
      return { status: answer.status, text: await answer.text() }
    },
    catch: (error) => new HttpError({ url, status: undefined, detail: reasonOf(error) })
  }).pipe(
    Effect.flatMap(({ status, text }) =>
      status === 200 ? Effect.succeed(text) : Effect.fail(new HttpError({ url, status, detail: `${status} ${text}` }))
    )
  )

/** What `fetch` says stands in the cause. */
const reasonOf = (error: unknown): string => {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  return cause instanceof Error ? cause.message || cause.name : String(cause)
}
