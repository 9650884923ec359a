/** What the tests of RabbitMQ share. */
import type { ConfirmChannel, GetMessage } from "amqplib"
import { connect } from "amqplib"
import { Effect, Schedule, type Scope } from "effect"
import { TcpProxy } from "millrace/testing"
import type { OutgoingMessage, Published } from "../../../src/messaging/Driver.ts"
import { envelope, message } from "../support.ts"

/** The same server by another port. */
export const byPort = (url: string, port: number): string => {
  const parsed = new URL(url)
  parsed.port = String(port)
  return parsed.href
}

/** A proxy in front of the server, and the url by it. */
export const proxied = (url: string) =>
  Effect.map(TcpProxy.make({ port: Number(new URL(url).port) }), (proxy) => ({ proxy, url: byPort(url, proxy.port) }))

/** A name that nobody has used. */
export const fresh = (): string => `test-${crypto.randomUUID().slice(0, 8)}`

/** A connection of the client by itself, as any other program has. */
export const rawChannel = (url: string): Effect.Effect<ConfirmChannel, never, Scope.Scope> =>
  Effect.map(
    Effect.acquireRelease(
      Effect.promise(async () => {
        const model = await connect(url, { noDelay: true })
        model.on("error", () => undefined)
        const channel = await model.createConfirmChannel()
        channel.on("error", () => undefined)
        return { channel, model }
      }),
      ({ model }) => Effect.promise(() => model.close().catch(() => undefined))
    ),
    ({ channel }) => channel
  )

/** The message that waits in a queue; it must come soon. */
export const getOne = (channel: ConfirmChannel, queue: string): Effect.Effect<GetMessage> =>
  Effect.repeat(
    Effect.promise(() => channel.get(queue, { noAck: true })),
    { until: (message) => message !== false, schedule: Schedule.spaced("10 millis"), times: 500 }
  ).pipe(
    Effect.flatMap((message) =>
      message === false ? Effect.die(new Error(`${queue} is empty`)) : Effect.succeed(message)
    )
  )

export const send = (topic: string, id: string, fields: Partial<OutgoingMessage> = {}): OutgoingMessage => ({
  ...message(id),
  envelope: envelope(id, { topic }),
  destination: { _tag: "Topic", topic },
  ...fields
})

/** What a publish answered: `Confirmed`, or the code of the error. */
export const codeOf = (answer: Published | undefined): string => {
  if (answer?._tag !== "Failed") return answer?._tag ?? "nothing"
  const { reason } = answer.error
  return reason._tag === "Rejected" ? reason.code : reason._tag
}

/** Waits until it holds; fails with what is said where it does not within 20 seconds. */
export const until = (what: string, condition: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => (condition() ? Effect.void : Effect.fail(what))).pipe(
    Effect.retry({ schedule: Schedule.spaced("5 millis"), times: 4000 }),
    Effect.orDie
  )
