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

Start a receiver and subscribe it; and subscribe an address where nobody listens:
  log=$(mktemp); WEBHOOK_SECRET=$secret PORT=0 '${process.execPath}' '${receiver}' >"$log" & receiver=$!
  until here=$(grep -o 'http://.*' "$log"); do sleep 0.1; done
  curl -sw '\\n' "$url/subscribers" -H "$json" -d '{"url":"'$here'","secret":"'$secret'"}'
  id=$(curl -s "$url/subscribers" -H "$json" -d '{"url":"http://127.0.0.1:9"}' | cut -d '"' -f 4)

Send an event, and the same once more, which is noticed; and see what has arrived:
  event='{"id":"order-1","type":"order.placed","data":{"total":12}}'
  curl -isw '\\n' "$url/events" -H "$json" -d "$event"
  curl -sw '\\n' "$url/events" -H "$json" -d "$event"
  until grep received "$log"; do sleep 0.1; done

See how the subscribers are, and what was set aside for one (with ATTEMPTS=3 that is soon), and send that again:
  until curl -sw '\\n' "$url/subscribers" | grep "cannot reach it"; do sleep 0.1; done
  curl -sw '\\n' "$url/subscribers/$id/dead-letters"
  curl -sw '\\n' "$url/subscribers/$id/dead-letters/replay" -H "$json" -d '{}'

Take one out; see here what runs and waits; and stop. With KILL instead nothing is lost either: start it again and see.
  curl -isX DELETE "$url/subscribers/$id"
  kill $receiver
  kill -USR2 ${process.pid}; sleep 0.5
  kill -TERM ${process.pid}
`

/** Printed when the service is ready. */
export const printUsage = Layer.effectDiscard(
  Effect.gen(function* () {
    const { database } = yield* Settings
    yield* HttpServer.addressFormattedWith((address) => Console.log(usage(address, database)))
  })
)
