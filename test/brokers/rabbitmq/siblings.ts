/**
 * A process of its own, since what it tries could keep a process from ever answering again: of many messages that are
 * published side by side the first cannot be written, and its failure interrupts the others. Prints how that ended, and how
 * publishing one more did.
 */
import { Effect, Schema } from "effect"
import { Topic } from "millrace"
import { BrokerError } from "millrace/Broker"
import { RabbitMq } from "millrace/rabbitmq"

const { RABBITMQ_URL: url = "", TOPIC: name = "" } = process.env
const topic = Topic.make(name, { schema: Schema.Struct({ n: Schema.Number }), version: 1, groups: ["g"] })

const outcome = <R>(publish: Effect.Effect<unknown, unknown, R>) =>
  Effect.match(publish, {
    onFailure: (error) =>
      error instanceof BrokerError && error.reason._tag === "Rejected" ? error.reason.code : String(error),
    onSuccess: () => "Confirmed"
  })

await Effect.gen(function* () {
  // What is published now is handed over in order, and waits for the channel of the topic.
  yield* topic.declare
  const many = Effect.forEach(
    // Whose list is cleared of those that were given up when the last of them is.
    Array.from({ length: 65 }, (_, n) => n),
    (n) => topic.publish({ n }, n === 0 ? { headers: { big: "x".repeat(70_000) } } : {}),
    { concurrency: "unbounded", discard: true }
  )
  console.log(yield* outcome(many), yield* outcome(topic.publish({ n: 65 })))
}).pipe(Effect.provide(RabbitMq.layer({ url })), Effect.runPromise)
