/**
 * What a crash check does at the servers themselves: NSQ cannot show its dead letters, so they are read from their topics.
 */
import { Effect } from "effect"
import { NsqProtocol } from "millrace/nsq"
import { urlOf } from "../services/state.ts"
import type { Letter } from "./history.ts"
import { groups, topicName } from "./scenario.ts"

const { ask, Command, connect, Lookup } = NsqProtocol

const servers = () => [
  { tcp: urlOf("nsq", "nsqd1"), http: urlOf("nsq", "nsqd1Http") },
  { tcp: urlOf("nsq", "nsqd2"), http: urlOf("nsq", "nsqd2Http") }
]

export const clear = (): Promise<void> =>
  Effect.forEach(
    servers(),
    ({ http }) =>
      Effect.forEach(
        [topicName, ...groups.flatMap(({ name }) => [`${topicName}..${name}..retry`, `${topicName}..${name}..dead`])],
        (topic) => Lookup.deleteTopic(http, topic),
        { discard: true }
      ),
    { discard: true }
  ).pipe(Effect.runPromise)

/** All that was read by now. */
const letters: Array<Letter> = []

/** Reads what has come to the topics of dead letters. */
export const readLetters = (): Promise<ReadonlyArray<Letter>> =>
  Effect.forEach(servers(), ({ http, tcp }) =>
    Effect.forEach(groups, ({ name }) => readTopic(tcp, http, `${topicName}..${name}..dead`, name))
  ).pipe(
    Effect.map(() => letters),
    Effect.runPromise
  )

/** Reads a topic through a channel of its own, which gets all that has no channel yet, and finishes it. */
const readTopic = (tcp: string, http: string, topic: string, group: string) =>
  Effect.gen(function* () {
    const [host = "", port = ""] = tcp.split(":")
    const connection = yield* connect({
      host,
      port: Number(port),
      outputBufferTimeout: 25,
      onMessage: ({ body, id }, connection) => {
        const envelope = JSON.parse(body.toString("utf8", 8, 8 + body.readUInt32BE(4)))
        const attempts: ReadonlyArray<unknown> = JSON.parse(envelope.history)
        letters.push({ id: envelope.id, group, attempts: attempts.length })
        connection.send(Command.fin(id))
      }
    })
    yield* ask(connection, Command.sub(topic, "check"))
    connection.send(Command.rdy(connection.features.maxRdyCount))
    const left = Effect.map(Lookup.stats(http, topic), (stats) => {
      const [channel] = stats?.channels ?? []
      return (stats?.depth ?? 0) + (channel?.depth ?? 0) + (channel?.in_flight_count ?? 0)
    })
    yield* Effect.sleep("50 millis").pipe(
      Effect.andThen(left),
      Effect.repeat({ until: (left) => left === 0 }),
      Effect.timeoutOption("30 seconds")
    )
  }).pipe(Effect.scoped)
