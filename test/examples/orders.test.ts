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

/** All bodies of this service are objects; what is in them the tests assert. */
const bodyOf = async (response: Response) => (await response.json()) as Record<string, unknown>

/** Posts an order that is accepted, and returns its id. */
const place = async (service: Service, body: unknown = order): Promise<string> =>
  String((await bodyOf(await post(service, body))).id)

/** Polls the status of an order until it is the last one. Returns what was seen, each once. */
const statuses = async (service: Service, id: string): Promise<ReadonlyArray<Record<string, unknown>>> => {
  const seen: Array<Record<string, unknown>> = []
  await poll(`order ${id} is worked off`, async () => {
    const answer = await bodyOf(await fetch(`${service.url}/${id}`))
    if (answer.status !== seen.at(-1)?.status) seen.push(answer)
    return answer.status === "invoiced" || answer.status === "failed" ? true : undefined
  })
  return seen
}

/** What the service prints of a pool when that has closed. */
const reportOf = (service: Program, pool: string) => {
  const line = new RegExp(
    `^Pool "${pool}" closed in \\d+ ms: (\\d+) drained, 0 interrupted, 0 abandoned, 0 dropped, 0 refused\\. Of (\\d+) accepted: (\\d+) succeeded\\.$`,
    "m"
  ).exec(service.stdout())
  assert.isNotNull(line, `a clean report of ${pool} in:\n${service.stdout()}`)
  return { drained: Number(line[1]), accepted: Number(line[2]), succeeded: Number(line[3]) }
}

describe("examples/orders", { timeout: 60_000 }, () => {
  it("takes an order, tracks it, and tells how far it is until it is invoiced", async () => {
    const service = await startOrders()
    const response = await post(service, order)
    assert.strictEqual(response.status, 202)
    const { id, ...rest } = await bodyOf(response)
    assert.deepStrictEqual(rest, { status: "queued" })
    assert.strictEqual(response.headers.get("location"), `/orders/${id}`)

    const seen = await statuses(service, String(id))
    assert.deepStrictEqual(seen.at(-1), {
      id,
      status: "invoiced",
      invoice: "ada@example.com owes 83.06 with 19 % tax."
    })
    for (const { status } of seen) assert.include(["queued", "rendering", "invoiced"], status)

    const line = await poll("the order is tracked", () =>
      existsSync(service.trackingLog) ? readFileSync(service.trackingLog, "utf8") || undefined : undefined
    )
    assert.deepInclude(JSON.parse(line), { event: "placed", id, country: "DE", items: 1 })
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
    const id = await place(service, { ...order, country: "US" })
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

    service.kill("SIGUSR2")
    const dump = await poll("a dump", () => /^WorkerPool "Invoices" .*\n( .*\n)+/m.exec(service.stderr())?.[0])
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
    assert.strictEqual(tracked.trimEnd().split("\n").length, accepted.length)
  })

  it("works off every order whose sender got a 202, also when it is told to stop between them", async () => {
    const service = await startOrders({ INVOICE_MILLIS: "5" })
    let accepted = 0
    for (;;) {
      const response = await post(service, order).catch(() => undefined)
      if (response === undefined) break
      if (response.status === 202) accepted += 1
      await response.arrayBuffer()
      if (accepted === 20) service.kill("SIGTERM")
    }
    assert.strictEqual(await service.ended, 0)
    assert.isAtLeast(accepted, 20)
    assert.deepInclude(reportOf(service, "Invoices"), { accepted, succeeded: accepted })
    assert.deepInclude(reportOf(service, "Tracking"), { accepted, succeeded: accepted })
  })

  it.runIf(existsSync("/usr/bin/curl"))("prints lines that work", async () => {
    const service = await startOrders()
    const script = service
      .stdout()
      .split("\n")
      .filter((line) => line.startsWith("  "))
      .join("\n")
    const output = execFileSync("sh", ["-c", script], { encoding: "utf8" })
    assert.match(output, /^HTTP\/1\.1 202 Accepted\r$/m)
    assert.match(output, /^\{"id":".*","status":"(queued|rendering|invoiced)".*\}$/m)
    assert.match(output, /^\{"error":"This is not an order\.","reasons":\[.*"\]\}$/m)
    assert.match(output, /^ +\d+ HTTP\/1\.1 429 Too Many Requests\r$/m)
    assert.match(output, /^ +\d+ retry-after: 1\r$/m)
    // The last two lines asked for a dump and the end.
    assert.strictEqual(await service.ended, 0)
    assert.match(service.stderr(), /^WorkerPool "Invoices" \(/m)
    assert.strictEqual(reportOf(service, "Invoices").accepted, reportOf(service, "Tracking").accepted)
  })

  it.runIf(existsSync("/dev/full"))("takes orders also when they cannot be tracked", async () => {
    const service = await startOrders({ TRACKING_LOG: "/dev/full", INVOICE_MILLIS: "1" })
    const id = await place(service)
    assert.deepInclude((await statuses(service, id)).at(-1), { status: "invoiced" })
    await poll("a warning", () => (service.stderr().includes("is not in the tracking log") ? true : undefined))
    assert.include(service.stderr(), "ENOSPC: no space left on device")
  })

  it("says in a sentence why it cannot start", async () => {
    const { url } = await startOrders()
    const { port } = new URL(url)
    const refused = async (env: Readonly<Record<string, string>>): Promise<string> => {
      const program = start("orders/main.ts", { env: environment(env) })
      assert.strictEqual(await program.ended, 1)
      assert.strictEqual(program.stdout(), "")
      return program.stderr()
    }
    assert.strictEqual(
      await refused({ PORT: port }),
      `Cannot start: listen EADDRINUSE: address already in use 127.0.0.1:${port}. Set PORT to another one, or to 0 for a free one.\n`
    )
    assert.strictEqual(await refused({ PORT: "70000" }), "Cannot start: PORT: Expected a value between 0 and 65535\n")
    assert.match(
      await refused({ TRACKING_LOG: "/nowhere/orders.jsonl" }),
      /^Cannot start: ENOENT: no such file or directory, open '\/nowhere\/orders\.jsonl'\n$/
    )
  })
})
