/**
 * What to try: lines for a shell, which work as they are printed.
 */
import { Console, Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { Settings } from "./Settings.ts"

const usage = (address: string, trackingLog: string) => `
Taking orders at ${address} as process ${process.pid}, tracking them in ${trackingLog}
Try in another terminal:

  url=${address}/orders; json='content-type: application/json'
  order='{"email":"ada@example.com","country":"DE","items":[{"name":"Kettle","quantity":1,"cents":3490}]}'

Place an order, then one more, and ask how far that is:
  curl -isw '\\n' "$url" -H "$json" -d "$order"
  id=$(curl -s "$url" -H "$json" -d "$order" | cut -d '"' -f 4)
  curl -sw '\\n' "$url/$id"

Place one that is wrong:
  curl -sw '\\n' "$url" -H "$json" -d '{"email":"ada","items":[]}'

Place 40 at once, for which there is no room:
  curl -sZ "$url?[1-40]" -H "$json" -d "$order" -o /dev/null -D - 2>/dev/null | grep -iE 'HTTP|retry' | sort | uniq -c

See here what runs and waits; and stop:
  kill -USR2 ${process.pid}
  kill -TERM ${process.pid}
`

/** Printed when the service is ready. */
export const printUsage = Layer.effectDiscard(
  Effect.gen(function* () {
    const { trackingLog } = yield* Settings
    yield* HttpServer.addressFormattedWith((address) => Console.log(usage(address, trackingLog)))
  })
)
