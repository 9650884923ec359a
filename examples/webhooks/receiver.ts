/**
 * What a subscriber looks like: takes events that are signed with `WEBHOOK_SECRET`, each once, and prints a line for each.
 *
 *     WEBHOOK_SECRET=whsec_… PORT=3101 node --conditions=millrace-source examples/webhooks/receiver.ts
 *
 * It has no part of Millrace or Effect, as one that somebody else has written. In earnest, what was seen is kept in a database,
 * in the transaction of what is done with the event.
 */
import { createServer } from "node:http"
import { verify } from "./signature.ts"

const secret = process.env.WEBHOOK_SECRET ?? ""
const seen = new Set<string>()

const server = createServer(async (request, response) => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk)
  const body = Buffer.concat(chunks).toString("utf8")
  const header = (name: string) => String(request.headers[name] ?? "")
  const id = header("webhook-id")
  const signed = {
    "webhook-id": id,
    "webhook-timestamp": header("webhook-timestamp"),
    "webhook-signature": header("webhook-signature")
  }
  if (!verify(secret, signed, Date.now(), body)) {
    response.writeHead(401).end()
    return
  }
  if (!seen.has(id)) {
    seen.add(id)
    console.log(`received ${id}: ${body}`)
  }
  response.writeHead(204).end()
})

server.listen(Number(process.env.PORT ?? 3101), "127.0.0.1", () => {
  const address = server.address()
  if (typeof address === "object" && address !== null) console.log(`listening at http://127.0.0.1:${address.port}`)
})
