/**
 * What a crash check does at the servers themselves: NSQ cannot show its dead letters, so they are read from their topic and
 * not finished.
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

export const readLetters = (): Promise<ReadonlyArray<Letter>> =>
  Effect.forEach(servers(), ({ http, tcp }) =>
    Effect.forEach(groups, ({ name }) => readTopic(tcp, http, `${topicName}..${name}..dead`, name))
  ).pipe(
    Effect.map((letters) => letters.flat(2)),
    Effect.runPromise
  )

/** A channel of its own gets all that has no channel yet, and all again in a later call, since nothing is finished. */
const readTopic = (tcp: string, http: string, topic: string, group: string) =>
  Effect.gen(function* () {
    const stats = yield* Lookup.stats(http, topic)
    const there = (stats?.depth ?? 0) + (stats?.channels?.[0]?.depth ?? 0)
    const [host = "", port = ""] = tcp.split(":")
    const letters = new Map<string, Letter>()
    let arrived = 0
    const connection = yield* connect({
      host,
      port: Number(port),
      outputBufferTimeout: 25,
      onMessage: ({ body }) => {
        arrived++
        const envelope = JSON.parse(body.toString("utf8", 8, 8 + body.readUInt32BE(4)))
        const attempts: ReadonlyArray<unknown> = JSON.parse(envelope.history)
        letters.set(envelope.id, { id: envelope.id, group, attempts: attempts.length })
      }
    })
    yield* ask(connection, Command.sub(topic, "check"))
    connection.send(Command.rdy(connection.features.maxRdyCount))
    yield* Effect.sleep("20 millis").pipe(
      Effect.repeat({ until: () => arrived >= there }),
      Effect.timeoutOption("10 seconds")
    )
    return [...letters.values()]
  }).pipe(Effect.scoped)
