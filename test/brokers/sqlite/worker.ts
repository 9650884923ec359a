/**
 * A process of its own for tests of several: `worker.ts FILE ROLE ARGUMENT`, which tells its parent what it does, a line each.
 *
 * - `publish N`: publishes the numbers below N one by one, and tells each when it is confirmed.
 * - `consume LEASE`: takes and acknowledges, and tells each text when it is acknowledged.
 * - `hold LEASE`: takes what there is, tells each text, and waits to be killed.
 * - `ordered LEASE`: takes under order "key", tells key, text and machine time with `+` when it has it, and with
 *   `-` before it acknowledges.
 * - `open`: opens the file, tells `opened`, and ends.
 * - `wake`: takes one after the other, and tells how old each message is in microseconds.
 */
import { writeSync } from "node:fs"
import { Context, Effect, Layer } from "effect"
import { Sqlite } from "millrace/sqlite"
import { Broker } from "../../../src/messaging/Broker.ts"
import { acknowledge, message, subscribe, take, textOf } from "./support.ts"

const [filename = "", role = "", argument = ""] = process.argv.slice(2)

// Synchronous, so that what is told has been told when the process is killed.
const tell = (text: string) => writeSync(1, `${text}\n`)

const program = Effect.gen(function* () {
  const context = yield* Layer.build(Sqlite.layer({ filename, pollInterval: "200 millis" }))
  const driver = Context.get(context, Broker)
  const lease = Number(argument)
  tell("opened")
  switch (role) {
    case "open":
      return
    case "publish":
      for (let i = 0; i < Number(argument); i++) {
        yield* driver.publish([message("t", `${process.pid}:${i}`, { envelope: { key: `k${i % 5}` } })])
        tell(`${process.pid}:${i}`)
      }
      return
    case "consume": {
      const subscription = yield* subscribe(driver, { lease })
      while (true) {
        const taken = yield* take(subscription)
        yield* acknowledge(subscription, taken)
        tell(taken.map(textOf).join("\n"))
      }
    }
    case "hold": {
      const subscription = yield* subscribe(driver, { lease })
      while (true) tell((yield* take(subscription)).map(textOf).join("\n"))
    }
    case "ordered": {
      const subscription = yield* subscribe(driver, { lease, order: "key", credit: 10 })
      while (true) {
        const taken = yield* take(subscription, 10)
        const mark = (sign: string) => {
          const now = process.hrtime.bigint()
          tell(taken.map((each) => `${sign} ${each.message.envelope.key} ${textOf(each)} ${now}`).join("\n"))
        }
        mark("+")
        yield* Effect.sleep(Math.random() * 3)
        mark("-")
        yield* acknowledge(subscription, taken)
      }
    }
    case "wake": {
      const subscription = yield* subscribe(driver, { lease: 30_000 })
      while (true) {
        const taken = yield* take(subscription)
        const now = process.hrtime.bigint()
        for (const delivery of taken) tell(String((now - BigInt(textOf(delivery))) / 1000n))
        yield* acknowledge(subscription, taken)
      }
    }
  }
})

await Effect.runPromise(Effect.scoped(program))
