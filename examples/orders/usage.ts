/**
 * What to try: lines for a shell, which work as they are printed.
 */
import { Console, Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import { Settings } from "./Settings.ts"

const usage = (address: string, database: string) => `
Taking orders at ${address} as process ${process.pid}, keeping them in ${database}
Try in another terminal:

  url=${address}; json='content-type: application/json'
  order='{"email":"ada@example.com","phone":"+491701234560","country":"DE","product":"kettle","quantity":1}'

Place an order, then one more, and ask what happened to that:
  curl -isw '\\n' "$url/orders" -H "$json" -d "$order"
  id=$(curl -s "$url/orders" -H "$json" -d "$order" | cut -d '"' -f 4)
  until curl -sw '\\n' "$url/orders/$id" | grep '"sms":"sent","stock":"reserved"'; do sleep 0.2; done

Place one that is wrong, and one whose number nobody has (the gateway rejects those that end in 9):
  curl -sw '\\n' "$url/orders" -H "$json" -d '{"email":"ada","product":"sofa"}'
  id=$(curl -s "$url/orders" -H "$json" -d "$(echo "$order" | sed s/60\\"/69\\"/)" | cut -d '"' -f 4)

See what has failed, and have it done again with another number:
  until curl -sw '\\n' "$url/dead-letters" | grep "$id"; do sleep 0.2; done
  curl -sw '\\n' "$url/dead-letters/replay" -H "$json" -d '{"ids":["'$id'"],"phone":"+491701234560"}'
  until curl -sw '\\n' "$url/orders/$id" | grep '"sms":"sent"'; do sleep 0.2; done

Ask for 40 invoices at once, for which there is no room:
  curl -sZ "$url/orders/$id/invoice?[1-40]" -o /dev/null -D - 2>/dev/null | grep -iE 'HTTP|retry' | sort | uniq -c

See here what runs and waits; and stop. With KILL instead nothing is lost either: start it again and see.
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
