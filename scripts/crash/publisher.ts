/**
 * A process that publishes as fast as it is confirmed, each key one message after the other.
 *
 * Arguments: broker, folder, name, generation. The keys are the name's own, numbered on from generation to generation.
 */
import { NodeRuntime } from "@effect/platform-node"
import { Effect, Schedule } from "effect"
import { layerOf } from "./brokers.ts"
import { writer } from "./history.ts"
import { keysEach, Steps } from "./scenario.ts"

const [broker = "", folder = "", name = "", generation = ""] = process.argv.slice(2)
const note = writer(folder, `${name}-${generation}`)

/** Under the same id, so that what was there after all is there once where the broker can tell. */
const again = Schedule.max([Schedule.spaced("100 millis"), Schedule.recurs(50)])

const publishKey = (index: number) =>
  Effect.gen(function* () {
    const key = `${name}-${index}`
    for (let i = 0; ; i++) {
      // Later generations continue above, whatever became of the last message of this one.
      const n = Number(generation) * 1_000_000 + i
      const id = `${key}-${n}`
      note({ event: "sending", id, key, n })
      yield* Effect.retry(Steps.publish({ key, n }, { id }), again)
      note({ event: "confirmed", id, key, n })
      yield* Effect.sleep(Math.random() * 20)
    }
  })

process.stdout.write("ready\n")
Effect.forEach(
  Array.from({ length: keysEach }, (_, i) => i),
  publishKey,
  { concurrency: "unbounded" }
).pipe(Effect.provide(layerOf(broker, folder)), NodeRuntime.runMain)
