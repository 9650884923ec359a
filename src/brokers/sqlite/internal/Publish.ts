/**
 * Publishing: checked before it shares a transaction with others, in pieces that fit into one, and inside the transaction of
 * the program where there is one.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { SqlClient, TransactionConnection } from "effect/sql/SqlClient"
import type { BrokerError } from "../../../messaging/BrokerError.ts"
import type { OutgoingMessage, Published } from "../../../messaging/Driver.ts"
import type { About } from "./Failure.ts"
import { fromCause, rejected } from "./Failure.ts"
import type { Pump } from "./Pump.ts"
import type { Store } from "./Store.ts"

/** The most messages that go into one transaction together. */
const piece = 256
const pieceBytes = 4 * 1024 * 1024

const confirmed: Published = { _tag: "Confirmed" }
const duplicate: Published = { _tag: "Duplicate" }

/** Why a message cannot be kept, if so. */
export const fits = (
  about: About,
  { body, delay = 0, priority = 0 }: OutgoingMessage,
  maxMessageBytes: number
): BrokerError | undefined => {
  if (body.byteLength > maxMessageBytes) {
    return rejected(
      about,
      "TooLarge",
      `The payload has ${body.byteLength} bytes, and this broker takes ${maxMessageBytes}. Raise maxMessageBytes, or publish a reference to where the data is.`
    )
  }
  if (!(delay >= 0 && delay <= Number.MAX_SAFE_INTEGER / 2)) {
    return rejected(about, "Refused", `The delay must be a number of milliseconds from 0, got ${delay}.`)
  }
  if (!Number.isFinite(priority)) {
    return rejected(about, "Refused", `The priority must be a finite number, got ${priority}.`)
  }
  return undefined
}

export const noGroup = (about: About, { destination }: OutgoingMessage): BrokerError => {
  const group = destination._tag === "Topic" ? "" : destination.group
  return rejected(
    about,
    "NoGroup",
    `Topic "${destination.topic}" has no group "${group}", so nothing would keep the message. Start a consumer of that group first, or declare it.`
  )
}

const aboutOf = (message: OutgoingMessage): About => ({
  operation: "publish",
  topic: message.destination.topic,
  ids: [message.envelope.id]
})

const publishOne = (store: Store, message: OutgoingMessage): Published => {
  switch (store.publish(message)) {
    case "Confirmed":
      return confirmed
    case "Duplicate":
      return duplicate
    case "NoGroup":
      return { _tag: "Failed", error: noGroup(aboutOf(message), message) }
  }
}

export interface Publisher {
  readonly pump: Pump
  readonly sql: SqlClient
  /** Publishes through the connection of the client, inside its open transaction. */
  readonly inTransaction: Store
  readonly maxMessageBytes: number
}

export const publish =
  (publisher: Publisher) =>
  (messages: ReadonlyArray<OutgoingMessage>): Effect.Effect<ReadonlyArray<Published>, BrokerError> =>
    Effect.withFiber((fiber) => {
      const transaction = Context.getOrUndefined(fiber.context, publisher.sql.transactionService)
      const [first] = messages
      if (transaction === undefined && first !== undefined && messages.length === 1) return single(publisher, first)
      const send = transaction === undefined ? sendPiece(publisher) : sendWithin(publisher, transaction)
      return inPieces(publisher, messages, send)
    })

/** The usual case, without the arrays of the others. */
const single = ({ maxMessageBytes, pump }: Publisher, message: OutgoingMessage) => {
  const about = aboutOf(message)
  const problem = fits(about, message, maxMessageBytes)
  if (problem !== undefined) return Effect.succeed([{ _tag: "Failed", error: problem } as const])
  return pump.request(about, { weight: 1, bytes: message.body.byteLength }, (store) => [publishOne(store, message)])
}

type Send = (
  about: About,
  messages: ReadonlyArray<OutgoingMessage>,
  bytes: number
) => Effect.Effect<ReadonlyArray<Published>, BrokerError>

const inPieces = Effect.fnUntraced(function* (
  { maxMessageBytes }: Publisher,
  messages: ReadonlyArray<OutgoingMessage>,
  send: Send
) {
  const answers: Array<Published> = new Array(messages.length).fill(confirmed)
  let anyAnswer = false
  let indexes: Array<number> = []
  let bytes = 0

  const flush = Effect.suspend(() => {
    const sent = indexes
    const batch = sent.flatMap((index) => messages[index] ?? [])
    const size = bytes
    indexes = []
    bytes = 0
    const [first] = batch
    if (first === undefined) return Effect.void
    const topics = new Set(batch.map(({ destination }) => destination.topic))
    const about = {
      operation: "publish",
      topic: topics.size === 1 ? first.destination.topic : undefined,
      ids: batch.map(({ envelope }) => envelope.id)
    }
    return Effect.matchEffect(send(about, batch, size), {
      onSuccess: (published) =>
        Effect.sync(() => {
          anyAnswer = true
          for (const [i, index] of sent.entries()) answers[index] = published[i] ?? confirmed
        }),
      // Something is known of the pieces before, so the answer has to say so.
      onFailure: (error) => {
        for (const index of sent) answers[index] = { _tag: "Failed", error }
        return anyAnswer ? Effect.void : Effect.fail(error)
      }
    })
  })

  for (const [index, message] of messages.entries()) {
    const problem = fits(aboutOf(message), message, maxMessageBytes)
    if (problem !== undefined) {
      answers[index] = { _tag: "Failed", error: problem }
      anyAnswer = true
      continue
    }
    if (indexes.length === piece || (indexes.length > 0 && bytes + message.body.byteLength > pieceBytes)) yield* flush
    indexes.push(index)
    bytes += message.body.byteLength
  }
  yield* flush
  return answers as ReadonlyArray<Published>
})

const sendPiece =
  ({ pump }: Publisher): Send =>
  (about, messages, bytes) =>
    pump.request(about, { weight: messages.length, bytes }, (store) =>
      messages.map((message) => publishOne(store, message))
    )

/** Written now, confirmed by the commit of the program, and gone with its rollback. */
const sendWithin =
  (publisher: Publisher, _transaction: TransactionConnection.Service): Send =>
  (about, messages) =>
    within(publisher, about, (store) => messages.map((message) => publishOne(store, message)))

/** One step inside the open transaction of the program; consumers are woken by its commit. */
export const within = <A>(
  { inTransaction, pump, sql }: Pick<Publisher, "inTransaction" | "pump" | "sql">,
  about: About,
  step: (store: Store) => A
): Effect.Effect<A, BrokerError> => {
  const queues = new Set<number>()
  const wake = Effect.sync(() => {
    for (const queue of queues) pump.wake(queue)
  })
  const write = Effect.try({
    try: () => {
      const { database } = inTransaction
      database.db.exec("SAVEPOINT millrace_step")
      try {
        inTransaction.enter()
        const answer = step(inTransaction)
        inTransaction.leave()
        for (const queue of inTransaction.touched) queues.add(queue)
        database.db.exec("RELEASE millrace_step")
        return answer
      } catch (cause) {
        if (database.db.isTransaction) database.db.exec("ROLLBACK TO millrace_step; RELEASE millrace_step")
        throw cause
      } finally {
        // What was learned here is true only if the transaction is committed.
        inTransaction.forget()
      }
    },
    catch: (cause) => fromCause(about, inTransaction.database.filename, cause)
  })
  // First, because it dies where the transaction has already ended.
  return Effect.andThen(sql.afterCommit(wake), write)
}
