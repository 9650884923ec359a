/**
 * A member in a process of its own, which can be stopped: `member.ts BROKER TOPIC`. It says what it does in lines of JSON. What
 * it has at the beginning it keeps until its process has stood still; then it settles that at once, and whatever comes later.
 */
import { Context, Effect, Layer, Logger } from "effect"
import type { Driver } from "millrace"
import { Broker } from "millrace"
import { layerAt } from "./support.ts"

const [broker = "", topic = ""] = process.argv.slice(2)
const say = (line: unknown) => process.stdout.write(`${JSON.stringify(line)}\n`)
const acknowledge = (delivery: Driver.Delivery): Driver.Settlement => ({ _tag: "Acknowledge", delivery })

/** Ends when the process has stood still for seconds, since `last` already. */
const stoodStill = (last: number): Effect.Effect<void> =>
  Effect.flatMap(Effect.sleep(50), () => {
    const now = performance.now()
    return now - last > 3000 ? Effect.void : stoodStill(now)
  })

const program = Effect.gen(function* () {
  const driver: Driver.Driver = Context.get(yield* Layer.build(layerAt(broker)), Broker.Broker)
  const subscription = yield* driver.subscribe({ topic, group: "g", credit: 100, lease: 1000, order: "key" })
  const held: Array<Driver.Delivery> = []
  while (held.length < 20) held.push(...(yield* subscription.take(100, Number.MAX_SAFE_INTEGER)))
  // It may be stopped as soon as it has said so.
  const before = performance.now()
  say({ held: held.length })
  yield* stoodStill(before)
  say({ answers: yield* subscription.settle(held.map(acknowledge)) })
  for (;;) {
    const some = yield* subscription.take(100, Number.MAX_SAFE_INTEGER)
    for (const { message } of some) say({ got: message.envelope.id, key: message.envelope.key })
    yield* subscription.settle(some.map(acknowledge))
  }
})

process.once("SIGTERM", () => process.exit(0))
// Standard output is for what it says.
const logs = Logger.layer([Logger.withConsoleError(Logger.formatSimple)])
Effect.runPromise(Effect.scoped(Effect.provide(program, logs))).catch((error) => {
  console.error(error)
  process.exit(1)
})
