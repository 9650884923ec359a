/** What the tests of `examples/orders` share: the service as a process, and what its users do with it. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, onTestFinished } from "vitest"
import type { Program } from "./program.ts"
import { addressOf, poll, start } from "./program.ts"

export type Variables = Readonly<Record<string, string>>

/** An environment in a folder of its own. With another one as its base it is that of a program that starts again. */
export const environment = (changes: Variables = {}) => {
  const folder = mkdtempSync(join(tmpdir(), "orders-"))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const files = {
    DATABASE: join(folder, "orders.db"),
    TRACKING_LOG: join(folder, "orders.jsonl"),
    SMS_LOG: join(folder, "sms.jsonl")
  }
  return { PORT: "0", SMS_MILLIS: "5", ...files, ...changes }
}

export interface Service extends Program {
  readonly url: string
}

export const startOrders = async (
  env: Variables = environment(),
  args: ReadonlyArray<string> = []
): Promise<Service> => {
  const program = start("orders/main.ts", { env, args })
  return { ...program, url: await addressOf(program) }
}

export const order = { email: "ada@example.com", phone: "+491701234560", country: "DE", product: "kettle", quantity: 2 }

export const post = (service: Service, path: string, body: unknown): Promise<Response> =>
  fetch(service.url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })

/** What the tests read of the bodies, they assert. */
export type Body = Record<string, unknown>
export const bodyOf = async (response: Response | Promise<Response>) => (await (await response).json()) as Body

/** Places an order that is accepted, and returns its id. */
export const place = async (service: Service, changes: Partial<typeof order> = {}): Promise<string> => {
  const response = await post(service, "/orders", { ...order, ...changes })
  assert.strictEqual(response.status, 202)
  return String((await bodyOf(response)).id)
}

export const statusOf = (service: Service, id: string) => bodyOf(fetch(`${service.url}/orders/${id}`))

/** The status of an order when nothing about it waits any more, or when the SMS has come so far. */
export const settled = (service: Service, id: string, sms?: "sent" | "dead") =>
  poll(`order ${id} is worked off`, async () => {
    const status = await statusOf(service, id)
    const done = sms === undefined ? status.sms !== "waiting" : status.sms === sms
    return done && status.stock !== "waiting" ? status : undefined
  })

export const historyOf = (status: Body) => (status.history as ReadonlyArray<{ what: string }>).map(({ what }) => what)

export const deadLetters = async (service: Service) =>
  (await (await fetch(`${service.url}/dead-letters`)).json()) as ReadonlyArray<Body>

/** Ids of what the gateway has sent, each time. */
export const smsSent = (env: { readonly SMS_LOG: string }) =>
  readFileSync(env.SMS_LOG, "utf8").match(/(?<="key":")[^"]+/g) ?? []

/** What the service prints of a pool when that has closed. */
export const reportOf = (service: Program, pool: string) => {
  const line = new RegExp(
    `^Pool "${pool}" closed in \\d+ ms: (\\d+) drained, 0 interrupted, 0 abandoned, 0 dropped, \\d+ refused\\. Of (\\d+) accepted: (\\d+) succeeded\\.$`,
    "m"
  ).exec(service.stdout())
  assert.isNotNull(line, `a clean report of ${pool} in:\n${service.stdout()}`)
  return { drained: Number(line[1]), accepted: Number(line[2]), succeeded: Number(line[3]) }
}

/** The same of a consumer: everything that had begun has ended. */
export const assertClean = (service: Program, group: string): void =>
  assert.match(
    service.stdout(),
    new RegExp(`^Consumer "${group}" of "orders.placed" closed in \\d+ ms: .* 0 abandoned, 0 unsettled\\.`, "m")
  )
