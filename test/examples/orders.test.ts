import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it, onTestFinished } from "vitest"
import type { Program } from "./program.ts"
import { poll, start } from "./program.ts"

interface Service extends Program {
  readonly url: string
  readonly trackingLog: string
}

const environment = (env: Readonly<Record<string, string>>) => {
  const folder = mkdtempSync(join(tmpdir(), "orders-"))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return { PORT: "0", TRACKING_LOG: join(folder, "orders.jsonl"), ...env }
}

const startOrders = async (env: Readonly<Record<string, string>> = {}): Promise<Service> => {
  const variables = environment(env)
  const program = start("orders/main.ts", { env: variables })
  const url = await poll("the service says where it is", () => /http:\/\/[\d.]+:\d+/.exec(program.stdout())?.[0])
  return { ...program, url: `${url}/orders`, trackingLog: variables.TRACKING_LOG }
}

const order = { email: "ada@example.com", country: "DE", items: [{ name: "Kettle", quantity: 2, cents: 3490 }] }

const post = (service: Service, body: unknown): Promise<Response> =>
  fetch(service.url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body)
  })

const get = async (service: Service, id: string): Promise<Record<string, string>> =>
  (await fetch(`${service.url}/${id}`)).json()

/** Polls the status of an order until it is the last one. Returns what was seen, each once. */
const statuses = async (service: Service, id: string): Promise<ReadonlyArray<Record<string, string>>> => {
  const seen: Array<Record<string, string>> = []
  await poll(`order ${id} is worked off`, async () => {
    const answer = await get(service, id)
    if (answer.status !== seen.at(-1)?.status) seen.push(answer)
    return answer.status === "invoiced" || answer.status === "failed" ? true : undefined
  })
  return seen
}

/** What the service prints of a pool when that has closed. */
const reportOf = (service: Program, pool: string) => {
  const line = new RegExp(
    `^Pool "${pool}" closed in \\d+ ms: (\\d+) drained, 0 interrupted, 0 abandoned, 0 dropped, 0 refused; (\\d+) of (\\d+) succeeded$`,
    "m"
  ).exec(service.stdout())
  assert.isNotNull(line, `a clean report of ${pool} in:\n${service.stdout()}`)
  return { drained: Number(line[1]), succeeded: Number(line[2]), accepted: Number(line[3]) }
}

describe("examples/orders", { timeout: 60_000 }, () => {
  it("takes an order, tracks it, and tells how far it is until it is invoiced", async () => {
    const service = await startOrders()
    const response = await post(service, order)
    assert.strictEqual(response.status, 202)
    const answer = await response.json()
    assert.deepStrictEqual(answer, { id: answer.id, status: "queued" })
    assert.strictEqual(response.headers.get("location"), `/orders/${answer.id}`)

    const seen = await statuses(service, answer.id)
    assert.deepStrictEqual(seen.at(-1), {
      id: answer.id,
      status: "invoiced",
      invoice: "ada@example.com owes 83.06 with 19 % tax."
    })
    for (const { status } of seen) assert.include(["queued", "rendering", "invoiced"], status)

    const line = await poll("the order is tracked", () =>
      existsSync(service.trackingLog) ? readFileSync(service.trackingLog, "utf8") || undefined : undefined
    )
    assert.deepInclude(JSON.parse(line), { event: "placed", id: answer.id, country: "DE", items: 1 })
  })

  it("says what is wrong with a request", async () => {
    const service = await startOrders()
    const bad = await post(service, { email: "ada", items: [{ name: "Kettle", quantity: 0, cents: 1.5 }] })
    assert.strictEqual(bad.status, 400)
    assert.deepStrictEqual(await bad.json(), {
      error: "This is not an order.",
      reasons: [
        "email: Expected an e-mail address",
        "country: Missing key",
        "items.0.quantity: Expected a value between 1 and 1000",
        "items.0.cents: Expected an integer"
      ]
    })
    const noJson = await post(service, "{")
    assert.strictEqual(noJson.status, 400)
    assert.deepStrictEqual(await noJson.json(), { error: "The body is not JSON." })
    const large = await post(service, { ...order, email: "a".repeat(100_000) })
    assert.strictEqual(large.status, 413)
    assert.deepStrictEqual(await large.json(), { error: "An order has at most 64 KiB." })
    const unknown = await fetch(`${service.url}/nr-1`)
    assert.strictEqual(unknown.status, 404)
    assert.deepStrictEqual(await unknown.json(), { error: "There is no order nr-1." })
  })

  it("tells why an order has no invoice", async () => {
    const service = await startOrders({ INVOICE_MILLIS: "1" })
    const { id } = await (await post(service, { ...order, country: "US" })).json()
    const seen = await statuses(service, id)
    assert.deepStrictEqual(seen.at(-1), { id, status: "failed", reason: "No tax rate is known for US." })
  })

  it("refuses what it has no room for, shows what waits, and works off the rest before it ends", async () => {
    const service = await startOrders({ INVOICE_MILLIS: "1000" })
    const responses = await Promise.all(Array.from({ length: 40 }, () => post(service, order)))
    const accepted = responses.filter((response) => response.status === 202)
    const refused = responses.filter((response) => response.status === 429)
    assert.strictEqual(accepted.length + refused.length, 40)
    assert.isAtLeast(accepted.length, 10, "two slots and eight places")
    assert.isAtLeast(refused.length, 1)
    for (const response of refused) {
      assert.strictEqual(response.headers.get("retry-after"), "1")
      assert.deepStrictEqual(await response.json(), { error: "Too many orders at the moment." })
    }
    const { id } = await accepted[0]?.json()

    service.kill("SIGUSR2")
    const dump = await poll("a dump", () => /^WorkerPool "Invoices": .*\n( .*\n)+/m.exec(service.stderr())?.[0])
    const task =
      /^ {2}(running|queued) +invoice of [-\da-f]{36} .* (\d+ ms|[\d.]+ s) old .*submitted at .*orders\/Invoices\.ts:\d+:\d+$/
    const lines = dump.trimEnd().split("\n").slice(1)
    for (const line of lines) assert.match(line, task)
    assert.isTrue(lines.some((line) => line.includes("waits for a slot (2 running)")))

    service.kill("SIGTERM")
    assert.strictEqual(await service.ended, 0)
    const invoices = reportOf(service, "Invoices")
    assert.strictEqual(invoices.accepted, accepted.length)
    assert.strictEqual(invoices.succeeded, accepted.length)
    assert.isAtLeast(invoices.drained, 1)
    const tracking = reportOf(service, "Tracking")
    assert.strictEqual(tracking.succeeded, accepted.length)
    const tracked = readFileSync(service.trackingLog, "utf8")
    assert.include(tracked, id)
    assert.strictEqual(tracked.trimEnd().split("\n").length, accepted.length)
    assert.strictEqual(service.stderr().replace(dump, "").includes("ERROR"), false)
  })
})
