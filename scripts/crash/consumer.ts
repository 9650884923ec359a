/**
 * A process that consumes for both groups.
 *
 * Arguments: broker, folder, name, generation.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect } from "effect"
import { Consumer } from "millrace"
import { layerOf, orderOf } from "./brokers.ts"
import { writer } from "./history.ts"
import { Failed, failuresOf, groups, maxAttempts, onError, Steps } from "./scenario.ts"

const [broker = "", folder = "", name = "", generation = ""] = process.argv.slice(2)
const note = writer(folder, `${name}-${generation}`)

const program = Effect.gen(function* () {
  for (const group of groups) {
    yield* Consumer.make(
      Steps,
      ({ key, n }, { attempt, id }) =>
        Effect.gen(function* () {
          const run = { group: group.name, id, key, n, attempt }
          note({ event: "began", ...run })
          yield* Effect.sleep(Math.random() * 10)
          if (attempt <= failuresOf(id)) {
            note({ event: "failed", ...run })
            return yield* new Failed()
          }
          note({ event: "handled", ...run })
        }),
      {
        group: group.name,
        concurrency: 8,
        lease: "2 seconds",
        maxAttempts,
        maxDeliveries: 1000,
        shutdownDeadline: "5 seconds",
        ...(group.order ? orderOf(broker) : {}),
        onError
      }
    )
  }
  process.stdout.write("ready\n")
  return yield* Effect.never
})

Effect.scoped(program).pipe(Effect.provide(layerOf(broker, folder)), NodeRuntime.runMain)
