import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import type { Evidence } from "../../examples/orders/demo/witnesses.ts"
import { judge } from "../../examples/orders/demo/witnesses.ts"
import type { Order } from "../../examples/orders/Order.ts"
import type { Variables } from "./orders.ts"
import {
  assertClean,
  bodyOf,
  deadLetters,
  environment,
  historyOf,
  order,
  place,
  post,
  reportOf,
  settled,
  smsSent,
  startOrders
} from "./orders.ts"
import { linesToTry, nowhere, poll, start } from "./program.ts"

describe("examples/orders", { timeout: 120_000 }, () => {
  it("answers at once, and tells what happened to the order since", async () => {
    const env = environment()
    const service = await startOrders(env)
    const response = await post(service, "/orders", order)
    assert.strictEqual(response.status, 202)
    const { id, ...rest } = await bodyOf(response)
    assert.deepStrictEqual(rest, { status: "queued" })
    assert.strictEqual(response.headers.get("location"), `/orders/${id}`)

    const { history, ...status } = await settled(service, String(id))
    assert.deepStrictEqual(status, { id, product: "kettle", quantity: 2, sms: "sent", stock: "reserved" })
    assert.sameMembers(historyOf({ history }), ["placed", "stock: 2 reserved", "sms: sent"])
    assert.deepStrictEqual(smsSent(env), [id])
    const line = await poll("the order is tracked", () => readFileSync(env.TRACKING_LOG, "utf8") || undefined)
    assert.deepInclude(JSON.parse(line), { event: "placed", id, country: "DE", product: "kettle", quantity: 2 })
  })

  it("says what is wrong with a request", async () => {
    const service = await startOrders()
    const bad = await post(service, "/orders", { email: "ada", phone: "0170", product: "sofa", quantity: 1.5 })
    assert.strictEqual(bad.status, 400)
    assert.deepStrictEqual(await bad.json(), {
      error: "This is not an order.",
      reasons: [
        "email: Expected an e-mail address",
        "phone: Expected a phone number such as +491701234560",
        "country: Missing key",
        'product: Expected "kettle" | "lamp" | "chair"',
        "quantity: Expected an integer"
      ]
    })
    const noJson = await post(service, "/orders", "{")
    assert.strictEqual(noJson.status, 400)
    assert.deepStrictEqual(await noJson.json(), { error: "The body is not JSON." })
    const large = await post(service, "/orders", { ...order, email: "a".repeat(100_000) })
    assert.strictEqual(large.status, 413)
    assert.deepStrictEqual(await large.json(), { error: "A request has at most 64 KiB." })
    for (const path of ["/orders/nr-1", "/orders/nr-1/invoice"]) {
      const unknown = await fetch(service.url + path)
      assert.strictEqual(unknown.status, 404)
      assert.deepStrictEqual(await unknown.json(), { error: "There is no order nr-1." })
    }
    assert.strictEqual((await fetch(`${service.url}/dead-letters?limit=none`)).status, 400)
  })

  it("comes back to a gateway that is busy, slow, or does not say what it did; and sends each SMS once", async () => {
    const env = environment({ SMS_RETRY_MILLIS: "20" })
    const service = await startOrders(env)
    const [busy, silent, slow] = await Promise.all([
      place(service, { phone: "+491701234561" }),
      place(service, { phone: "+491701234562" }),
      place(service, { phone: "+491701234563" })
    ])
    assert.deepStrictEqual(
      historyOf(await settled(service, busy, "sent")).filter((what) => what.startsWith("sms")),
      [
        "sms: attempt 1 failed, the gateway is busy for 1 s",
        "sms: attempt 2 failed, the gateway is busy for 1 s",
        "sms: sent"
      ]
    )
    assert.include(
      historyOf(await settled(service, silent, "sent")),
      "sms: attempt 1 failed, the gateway does not work: it answered 500"
    )
    await settled(service, slow, "sent")
    assert.sameMembers([...smsSent(env)], [busy, silent, slow])
  })

  it("sets aside what the gateway rejects, shows it, and sends it to another number", async () => {
    const env = environment()
    const service = await startOrders(env)
    const id = await place(service, { phone: "+491701234569" })
    const other = await place(service, { phone: "+491701234579" })
    assert.deepInclude(await settled(service, id), { sms: "dead", stock: "reserved" })
    await settled(service, other)
    const letters = await deadLetters(service)
    assert.sameMembers(
      letters.map((letter) => letter.id),
      [id, other]
    )
    const letter = letters.find((letter) => letter.id === id)
    assert.deepInclude(letter, {
      group: "sms",
      reason: "decision",
      cause: "the gateway knows nobody with +491701234569",
      replays: 0
    })
    assert.deepInclude(letter?.order, { id, phone: "+491701234569" })

    const replay = (body: unknown) => bodyOf(post(service, "/dead-letters/replay", body))
    const nothing = { tooOften: [], failed: [], gone: [] }
    assert.deepStrictEqual(await replay({ dryRun: true }), { matched: 2, replayed: 0, ...nothing })
    assert.deepInclude(await replay({ ids: "all" }), { error: "This is not a choice of dead letters." })
    assert.deepStrictEqual(await replay({ ids: [id], phone: "+491701234560" }), { matched: 1, replayed: 1, ...nothing })
    await settled(service, id, "sent")
    assert.deepStrictEqual([...smsSent(env)], [id])
    // The other one is as wrong as before.
    assert.deepInclude(await replay({}), { matched: 1, replayed: 1 })
    await poll("it is dead again", async () => ((await deadLetters(service))[0]?.replays === 1 ? true : undefined))
  })

  it("keeps what has failed over a restart, and sends it when the gateway is back", async () => {
    const env = environment()
    const service = await startOrders({ ...env, SMS_GATEWAY: await nowhere(), SMS_RETRY_MILLIS: "1" })
    const id = await place(service)
    const status = await settled(service, id, "dead")
    assert.strictEqual(historyOf(status).filter((what) => what.includes("the gateway does not work")).length, 12)
    service.kill("SIGTERM")
    assert.strictEqual(await service.ended, 0)

    const again = await startOrders(env)
    assert.deepInclude((await deadLetters(again))[0], { id, reason: "exhausted" })
    assert.deepInclude(await bodyOf(post(again, "/dead-letters/replay", {})), { replayed: 1 })
    await settled(again, id, "sent")
    assert.deepStrictEqual([...smsSent(env)], [id])
    assert.deepStrictEqual(await deadLetters(again), [])
  })

  it("gives what is left to who ordered first", async () => {
    const service = await startOrders()
    const ids: Array<string> = []
    for (let n = 0; n < 7; n++) ids.push(await place(service, { product: "chair" }))
    const stock = []
    for (const id of ids) stock.push((await settled(service, id)).stock)
    assert.deepStrictEqual(stock, [...Array(5).fill("reserved"), "sold out", "sold out"])
  })

  it("renders invoices, refuses those it has no room for, shows what waits, and ends what has begun", async () => {
    const service = await startOrders(environment({ INVOICE_MILLIS: "1000" }))
    const abroad = await place(service, { country: "US" })
    const noRate = await fetch(`${service.url}/orders/${abroad}/invoice`)
    assert.strictEqual(noRate.status, 422)
    assert.deepStrictEqual(await noRate.json(), { error: "No tax rate is known for US." })

    const id = await place(service)
    const answered: Array<Response> = []
    const ask = async () => answered.push(await fetch(`${service.url}/orders/${id}/invoice`))
    const asked = Array.from({ length: 40 }, ask)
    await poll("30 are refused", () => (answered.length >= 30 ? true : undefined))
    service.kill("SIGUSR2")
    const dump = await poll("a dump", () => /^WorkerPool "Invoices" .*\n( .*\n)+/m.exec(service.stderr())?.[0])
    const task =
      /^ {2}(running|queued) +invoice of [-\da-f]{36} .* (\d+ ms|[\d.]+ s) old .*submitted at .*orders\/Invoices\.ts:\d+:\d+$/
    const lines = dump.trimEnd().split("\n").slice(1)
    assert.strictEqual(lines.length, 10, "two slots and eight places")
    for (const line of lines) assert.match(line, task)
    assert.isTrue(lines.some((line) => line.includes("waits for a slot (2 running)")))
    assert.match(service.stderr(), /^Consumer "orders.placed\/sms" \(/m)
    service.kill("SIGTERM")

    await Promise.all(asked)
    const rendered = answered.filter((response) => response.status === 200)
    assert.strictEqual(rendered.length, 10)
    for (const response of rendered) {
      assert.deepStrictEqual(await response.json(), { invoice: "ada@example.com owes 83.06 with 19 % tax." })
    }
    for (const response of answered.filter((response) => response.status !== 200)) {
      assert.strictEqual(response.status, 429)
      assert.strictEqual(response.headers.get("retry-after"), "1")
      assert.deepStrictEqual(await response.json(), { error: "Too many invoices at the moment." })
    }
    assert.strictEqual(await service.ended, 0)
    assert.match(service.stdout(), /^Pool "Invoices" closed in .* Of 11 accepted: 10 succeeded, 1 failed\.$/m)
    assert.deepInclude(reportOf(service, "Tracking"), { accepted: 2, succeeded: 2 })
    for (const group of ["sms", "stock"]) assertClean(service, group)
  })

  it("loses no order that was answered, when it is killed and when it is told to stop in mid-work", async () => {
    const env = environment({ SMS_MILLIS: "50" })
    const accepted: Array<string> = []
    for (const signal of ["SIGKILL", "SIGTERM"] as const) {
      const service = await startOrders(env)
      const enough = accepted.length + 30
      for (;;) {
        const response = await post(service, "/orders", order).catch(() => undefined)
        const body = await response?.json().catch(() => undefined)
        if (body === undefined) break
        accepted.push((body as { id: string }).id)
        if (accepted.length === enough) service.kill(signal)
      }
      assert.strictEqual(await service.ended, signal === "SIGTERM" ? 0 : signal)
      if (signal === "SIGTERM") for (const group of ["sms", "stock"]) assertClean(service, group)
    }
    const service = await startOrders(env)
    for (const id of accepted) {
      const status = await settled(service, id)
      assert.deepInclude(status, { sms: "sent", stock: "reserved" })
      assert.sameMembers(historyOf(status), ["placed", "stock: 2 reserved", "sms: sent"])
    }
    assert.includeMembers([...smsSent(env)], accepted)
    assert.strictEqual(new Set(smsSent(env)).size, smsSent(env).length)
  })

  it("is judged by witnesses that notice what is missing, twice, out of order or wrong", () => {
    const one = (id: string): Order => ({ ...order, id, product: "chair", quantity: 6 })
    const good: Evidence = {
      accepted: new Set(["a", "b"]),
      dead: ["b"],
      sms: { sent: ["a"], repeated: ["a"] },
      tables: {
        orders: [one("a"), one("b")],
        bookings: [
          { id: "a", product: "chair", reserved: 1 },
          { id: "b", product: "chair", reserved: 0 }
        ],
        stock: [
          { product: "kettle", available: 10_000 },
          { product: "lamp", available: 10_000 },
          { product: "chair", available: 4 }
        ]
      }
    }
    const { bookings, orders, stock } = good.tables
    const wrongs = (changes: Partial<Evidence["tables"]>, others: Partial<Evidence> = {}) => {
      const { bookedTwice, lost, sentTwice, wrong } = judge({
        ...good,
        ...others,
        tables: { ...good.tables, ...changes }
      })
      return { bookedTwice, lost, sentTwice, wrong }
    }
    const none = { bookedTwice: 0, lost: 0, sentTwice: 0, wrong: 0 }
    assert.deepStrictEqual(wrongs({}), none)
    assert.deepStrictEqual(wrongs({}, { accepted: new Set(["a", "b", "c"]) }), { ...none, lost: 1 })
    assert.deepStrictEqual(wrongs({}, { dead: [] }), { ...none, lost: 1 })
    assert.deepStrictEqual(wrongs({ bookings: bookings.slice(0, 1) }), { ...none, lost: 1, wrong: 1 })
    assert.deepStrictEqual(wrongs({}, { sms: { sent: ["a", "a"], repeated: [] } }), { ...none, sentTwice: 1 })
    assert.deepStrictEqual(wrongs({ bookings: bookings.concat(bookings) }), { ...none, bookedTwice: 2, wrong: 1 })
    assert.deepStrictEqual(wrongs({ bookings: bookings.toReversed() }), { ...none, wrong: 1 })
    assert.deepStrictEqual(wrongs({ orders: orders.toReversed() }), { ...none, wrong: 1 })
    assert.deepStrictEqual(wrongs({ stock: stock.slice(0, 2) }), { ...none, wrong: 1 })
  })

  it("counts what is there after many kills", async () => {
    const demo = start("orders/demo/crash.ts", { args: ["--kills", "2"] })
    assert.strictEqual(await demo.ended, 0)
    const counts = Object.fromEntries(
      [...demo.stdout().matchAll(/^([\w ]+?) {2,}(\d+)/gm)].map(([, name, count]) => [name, Number(count)])
    )
    assert.deepInclude(counts, { "products wrong": 0, lost: 0, duplicates: 0 })
    assert.isAtLeast(counts["accepted orders"] ?? 0, 1)
    assert.strictEqual(counts.SMS + counts["dead letters"], counts["stock bookings"])
    assert.match(demo.stdout(), /^duplicates +0 SMS, 0 bookings$/m)
  })

  it.runIf(existsSync("/usr/bin/curl"))("prints lines that work", async () => {
    const service = await startOrders()
    const output = execFileSync("sh", ["-c", linesToTry(service)], { encoding: "utf8", timeout: 50_000 })
    assert.match(output, /^HTTP\/1\.1 202 Accepted\r$/m)
    assert.match(output, /^\{"id":".*,"sms":"sent","stock":"reserved","history":\[.*\]\}$/m)
    assert.match(output, /^\{"error":"This is not an order\.","reasons":\[.*"\]\}$/m)
    assert.match(output, /^\[\{"id":".*","group":"sms","reason":"decision",.*\}\]$/m)
    assert.match(output, /^\{"matched":1,"replayed":1,.*\}$/m)
    assert.match(output, /attempt 1 failed, the gateway knows nobody with \+491701234569.*"sms: sent"/)
    assert.match(output, /^ +\d+ HTTP\/1\.1 429 Too Many Requests\r$/m)
    assert.match(output, /^ +\d+ retry-after: 1\r$/m)
    // The last two lines asked for a dump and the end.
    assert.strictEqual(await service.ended, 0)
    assert.match(service.stderr(), /^Consumer "orders.placed\/sms" \(/m)
    assert.strictEqual(reportOf(service, "Tracking").accepted, 3)
  })

  it.runIf(existsSync("/dev/full"))("takes orders also when they cannot be tracked", async () => {
    const service = await startOrders(environment({ TRACKING_LOG: "/dev/full" }))
    await settled(service, await place(service), "sent")
    await poll("a warning", () => (service.stderr().includes("is not in the tracking log") ? true : undefined))
    assert.include(service.stderr(), "ENOSPC: no space left on device")
  })

  it("says in a sentence why it cannot start", async () => {
    const { url } = await startOrders()
    const { port } = new URL(url)
    const refused = async (env: Variables): Promise<string> => {
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
    assert.match(await refused({ DATABASE: "/nowhere/orders.db" }), /^Cannot start: sqlite: open .*\/nowhere.*\n$/)
    const file = join(mkdtempSync(join(tmpdir(), "orders-")), "no.db")
    writeFileSync(file, "This is a text, and no database, however long one reads on in it.".repeat(100))
    assert.match(await refused({ DATABASE: file }), /^Cannot start: sqlite: open .*no\.db.*\n$/)
  })
})
