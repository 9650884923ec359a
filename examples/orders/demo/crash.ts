/**
 * Kills the service in mid-work, again and again, and counts what is missing in the end: nothing.
 *
 *     npm run demo:crash [-- --kills 5]
 *
 * Customers order over HTTP all the time. The gateway is a process of its own and outlives the service, so what its log says
 * was sent is what was sent.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Fiber, FileSystem, Layer, Option, Path, Random, Runtime, Schedule, Schema } from "effect"
import { Command, Flag } from "effect/cli"
import { FetchHttpClient, HttpClient, HttpClientResponse } from "effect/http"
import type { NewOrder } from "../Order.ts"
import { orderUntilNobodyAnswers } from "./load.ts"
import { startProgram } from "./program.ts"
import { judge, readSmsLog, readTables } from "./witnesses.ts"

const get = <A>(url: string, schema: Schema.ConstraintDecoder<A>) =>
  Effect.flatMap(HttpClient.get(url), HttpClientResponse.schemaBodyJson(schema))

const OrderState = Schema.Struct({ sms: Schema.String, stock: Schema.String })
const Letters = Schema.Array(Schema.Struct({ id: Schema.String, group: Schema.String }))

/** Waits until nothing of the order is open any more. */
const untilDone = (url: string, id: string) =>
  get(`${url}/orders/${id}`, OrderState).pipe(
    Effect.repeat({
      schedule: Schedule.spaced("200 millis"),
      until: ({ sms, stock }) => sms !== "waiting" && stock !== "waiting"
    })
  )

const demo = Effect.fnUntraced(function* (kills: number) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = yield* fs.makeTempDirectoryScoped({ prefix: "orders-crash-" })
  const database = path.join(folder, "orders.db")
  const smsLog = path.join(folder, "sms.jsonl")
  const accepted = new Map<string, NewOrder>()

  const gateway = yield* startProgram("gateway/main.ts", { SMS_PORT: "0", SMS_LOG: smsLog })
  const startService = startProgram("main.ts", {
    PORT: "0",
    DATABASE: database,
    TRACKING_LOG: path.join(folder, "tracking.jsonl"),
    SMS_GATEWAY: gateway.url
  })

  for (let kill = 1; kill <= kills; kill++) {
    const before = accepted.size
    const service = yield* startService
    const customers = yield* Effect.forkChild(orderUntilNobodyAnswers(service.url, accepted, 4))
    const millis = yield* Random.nextIntBetween(200, 2000)
    yield* Effect.sleep(millis)
    yield* service.end("SIGKILL")
    yield* Fiber.join(customers)
    yield* Console.log(`kill -9 after ${millis} ms: ${accepted.size - before} orders were answered with "queued"`)
  }

  yield* Console.log("Started again, and waiting until all is worked off …")
  const service = yield* startService
  const ids = readTables(database).orders.map(({ id }) => id)
  const waiting = yield* Effect.forEach(ids, (id) => untilDone(service.url, id), {
    concurrency: 8,
    discard: true
  }).pipe(Effect.timeoutOption("3 minutes"))
  if (Option.isNone(waiting)) yield* Console.log("After 3 minutes something still waits:")
  const letters = yield* get(`${service.url}/dead-letters?limit=${ids.length}`, Letters)
  yield* service.end("SIGTERM")

  return judge({
    accepted: new Set(accepted.keys()),
    dead: letters.filter(({ group }) => group === "sms").map(({ id }) => id),
    tables: readTables(database),
    sms: readSmsLog(smsLog)
  })
})

const report = (count: ReturnType<typeof judge>) => `
accepted orders      ${count.accepted}, and ${count.unanswered} whose sender got no answer
SMS                  ${count.sent} by the gateway's own log, which was asked again for ${count.askedTwice} of them
dead letters         ${count.dead}, for numbers that nobody has
stock bookings       ${count.booked}
duplicates           ${count.sentTwice} SMS, ${count.bookedTwice} bookings
products wrong       ${count.wrong}, by stock left and order of bookings
lost                 ${count.lost}
`

const kills = Flag.Int("kills").pipe(Flag.withDescription("How often the service is killed"), Flag.withDefault(5))

class SomethingIsWrong extends Schema.TaggedError<SomethingIsWrong>()("SomethingIsWrong", {}) {
  // The report has said it; what is left is the exit code.
  override readonly [Runtime.errorReported] = false
}

Command.make("crash", { kills }, ({ kills }) =>
  Effect.gen(function* () {
    const count = yield* demo(kills)
    yield* Console.log(report(count))
    const { bookedTwice, lost, sentTwice, wrong } = count
    if (lost + bookedTwice + sentTwice + wrong > 0) return yield* new SomethingIsWrong()
  }).pipe(Effect.scoped)
).pipe(
  Command.withDescription("Kill the service in mid-work, and count what is missing in the end"),
  Command.run({ version: "0.1.0" }),
  Effect.provide(Layer.mergeAll(NodeServices.layer, FetchHttpClient.layer)),
  NodeRuntime.runMain
)
