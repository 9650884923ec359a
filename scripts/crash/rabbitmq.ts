/**
 * What a crash check does at the server itself: RabbitMQ cannot show its dead letters, so they are got and not acknowledged.
 */
import type { Channel } from "amqplib"
import { connect } from "amqplib"
import type { Letter } from "./history.ts"
import { groups, topicName } from "./scenario.ts"

const withChannel = async <A>(url: string, use: (channel: Channel) => Promise<A>): Promise<A> => {
  const connection = await connect(url, { noDelay: true })
  try {
    return await use(await connection.createChannel())
  } finally {
    await connection.close()
  }
}

export const clear = (url: string): Promise<void> =>
  withChannel(url, async (channel) => {
    await channel.deleteExchange(topicName)
    for (const { name } of groups) {
      for (const suffix of ["", ":dead", ":retry:100"]) await channel.deleteQueue(`${topicName}:${name}${suffix}`)
    }
  })

/** With the connection they all go back. */
export const readLetters = (url: string): Promise<ReadonlyArray<Letter>> =>
  withChannel(url, async (channel) => {
    const letters: Array<Letter> = []
    for (const { name } of groups) {
      for (;;) {
        const message = await channel.get(`${topicName}:${name}:dead`)
        if (message === false) break
        const headers = message.properties.headers ?? {}
        const attempts: ReadonlyArray<unknown> = JSON.parse(String(headers["cloudEvents:history"]))
        letters.push({ id: String(headers["cloudEvents:id"]), group: name, attempts: attempts.length })
      }
    }
    return letters
  })
