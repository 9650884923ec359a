/**
 * What to try: lines for a shell, which work as they are printed.
 */
import { fileURLToPath } from "node:url"
import { Console, Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { Settings } from "./Settings.ts"

const receiver = fileURLToPath(new URL("receiver.ts", import.meta.url))

const usage = (address: string, database: string) => `
Taking events at ${address} as process ${process.pid}, keeping them in ${database}
Try in another terminal:

  url=${address}; json='content-type: application/json'; secret=whsec_bm90IGEgc2VjcmV0IGFueSBtb3JlIHNpbmNlIHlvdSByZWFkIGl0

Start a receiver, and subscribe it; and one where nobody listens:
  WEBHOOK_SECRET=$secret PORT=3101 '${process.execPath}' '${receiver}' & receiver=$!
  curl -sw '\\n' "$url/subscribers" -H "$json" -d '{"url":"http://127.0.0.1:3101/","secret":"'$secret'"}'
  id=$(curl -s "$url/subscribers" -H "$json" -d '{"url":"http://127.0.0.1:9/"}' | cut -d '"' -f 4)

Send an event, and the same once more, which is noticed:
  event='{"id":"order-1","type":"order.placed","data":{"total":12}}'
  curl -isw '\\n' "$url/events" -H "$json" -d "$event"
  curl -sw '\\n' "$url/events" -H "$json" -d "$event"

See how subscribers are, and what was set aside for one (nothing yet; with ATTEMPTS=3 it is after some seconds):
  sleep 1; curl -sw '\\n' "$url/subscribers"
  curl -sw '\\n' "$url/subscribers/$id/dead-letters"
  curl -sw '\\n' "$url/subscribers/$id/dead-letters/replay" -H "$json" -d '{}'

Take one out; see here what runs and waits; and stop:
  curl -isw '\\n' -X DELETE "$url/subscribers/$id"
  kill $receiver
  kill -USR2 ${process.pid}
  kill -TERM ${process.pid}
`

/** Printed when the service is ready. */
export const printUsage = Layer.effectDiscard(
  Effect.gen(function* () {
    const { database } = yield* Settings
    yield* HttpServer.addressFormattedWith((address) => Console.log(usage(address, database)))
  })
)
