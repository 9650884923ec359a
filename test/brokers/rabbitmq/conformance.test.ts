/** The conformance suite against a real RabbitMQ, with and without faults. */
import { it } from "@effect/vitest"
import { Effect, Logger } from "effect"
import { RabbitMq } from "millrace/rabbitmq"
import type { Fixture } from "millrace/testing"
import { brokerConformance } from "millrace/testing"
import { describeWith } from "../services.ts"

describeWith("rabbitmq", (rabbitmq) => {
  const url = rabbitmq.urls.amqp
  const layer = RabbitMq.layer({ url })
  const fixture: Fixture = {
    layer,
    abilities: { delay: "native", priority: "none", order: "none", replay: "none", browse: "none", results: "none" },
    withoutGroup: "rejects",
    lease: "none"
  }
  const suite = (name: string, fixture: Fixture) => {
    for (const { limit, run, skipped, title } of brokerConformance(fixture)) {
      it.skipIf(skipped !== undefined)(`${name}: ${title}`, { timeout: limit + 1000 }, () =>
        Effect.runPromise(Effect.provide(run, Logger.layer([])))
      )
    }
  }
  suite("calm", fixture)
})
