import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import type { IncomingHttpHeaders, RequestListener, ServerResponse } from "node:http"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it, onTestFinished } from "vitest"
import { sign, verify } from "../../examples/webhooks/signature.ts"
import type { Program } from "./program.ts"
import { addressOf, linesToTry, poll, start } from "./program.ts"

type Variables = Readonly<Record<string, string>>
type Body = Record<string, unknown>

const environment = (changes: Variables = {}) => {
  const folder = mkdtempSync(join(tmpdir(), "webhooks-"))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  return { PORT: "0", DATABASE: join(folder, "webhooks.db"), RETRY_MILLIS: "20", ...changes }
}

interface Service extends Program {
  readonly url: string
}

const startWebhooks = async (env: Variables = environment()): Promise<Service> => {
  const program = start("webhooks/main.ts", { env })
  return { ...program, url: await addressOf(program) }
}

const call = async (service: Service, method: string, path: string, body?: unknown) => {
  const response = await fetch(service.url + path, {
    method,
    headers: { "content-type": "application/json" },
    body: body === undefined ? null : JSON.stringify(body)
  })
  const text = await response.text()
  return { status: response.status, body: text === "" ? undefined : JSON.parse(text) }
}

/** Subscribes an address, and returns the subscriber. */
const subscribe = async (service: Service, url: string): Promise<{ readonly id: string; readonly secret: string }> => {
  const { body, status } = await call(service, "POST", "/subscribers", { url })
  assert.strictEqual(status, 201)
  return body
}

const send = async (service: Service, n: number): Promise<string> => {
  const { body, status } = await call(service, "POST", "/events", { type: "test", data: { n } })
  assert.strictEqual(status, 202)
  return body.id
}

interface Received {
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** A subscriber's server. `answer` says what it does with each request; by default it takes it. */
const receiver = async (
  answer: (response: ServerResponse, received: Received) => void = (response) => response.writeHead(204).end()
) => {
  const received: Array<Received> = []
  const listener: RequestListener = async (request, response) => {
    const chunks: Array<Buffer> = []
    for await (const chunk of request) chunks.push(chunk)
    const one = { headers: request.headers, body: Buffer.concat(chunks).toString() }
    received.push(one)
    answer(response, one)
  }
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const address = server.address()
  if (typeof address !== "object" || address === null) throw new Error("no address")
  return { url: `http://127.0.0.1:${address.port}/hook`, received }
}

const numberOf = ({ body }: Received): number => JSON.parse(body).data.n
const numbers = (received: ReadonlyArray<Received>) => received.map(numberOf)
const upTo = (count: number) => Array.from({ length: count }, (_, n) => n)
const isSigned = ({ body, headers }: Received, secret: string): boolean => {
  const header = (name: string) => String(headers[name] ?? "")
  const signed = {
    "webhook-id": header("webhook-id"),
    "webhook-timestamp": header("webhook-timestamp"),
    "webhook-signature": header("webhook-signature")
  }
  return verify(secret, signed, Date.now(), body)
}

describe("the signature of examples/webhooks", () => {
  const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
  const id = "msg_p5jXN8AQM9LWM0D4loKWxJek"
  const body = '{"test": 2432232314}'
  const at = 1_614_265_330_000
  const signed = sign(secret, id, at, body)

  it("is that of the specification's own example", () => {
    assert.strictEqual(signed["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
  })

  it("holds for what was signed, soon after, and for nothing else", () => {
    assert.isTrue(verify(secret, signed, at + 60_000, body))
    const both = `v1,c29tZXRoaW5nIGVsc2U= ${signed["webhook-signature"]}`
    assert.isTrue(verify(secret, { ...signed, "webhook-signature": both }, at, body))

    assert.isFalse(verify(secret, signed, at, `${body} `))
    assert.isFalse(verify(secret, { ...signed, "webhook-id": "another" }, at, body))
    assert.isFalse(verify(secret, { ...signed, "webhook-timestamp": "1614265331" }, at, body))
    assert.isFalse(verify(secret.replace("Mf", "Mg"), signed, at, body))
    assert.isFalse(verify(secret, signed, at + 10 * 60_000, body), "too old")
    assert.isFalse(verify(secret, signed, at - 10 * 60_000, body), "from the future")
    assert.isFalse(verify(secret, {}, at, body))
  })
})

describe("examples/webhooks", { timeout: 120_000 }, () => {
  it("delivers each event to each subscriber, signed, and in order", async () => {
    const service = await startWebhooks()
    const receivers = await Promise.all([receiver(), receiver()])
    const subscribers = []
    for (const { url } of receivers) subscribers.push(await subscribe(service, url))
    const ids: Array<string> = []
    for (const n of upTo(20)) ids.push(await send(service, n))
    for (const [i, { received }] of receivers.entries()) {
      await poll("all are delivered", () => (received.length >= 20 ? true : undefined))
      assert.deepStrictEqual(numbers(received), upTo(20))
      assert.deepStrictEqual(
        received.map(({ headers }) => headers["webhook-id"]),
        ids
      )
      for (const one of received) {
        assert.strictEqual(one.headers["content-type"], "application/json")
        assert.isTrue(isSigned(one, subscribers[i]?.secret ?? ""))
        assert.isFalse(isSigned(one, subscribers[1 - i]?.secret ?? ""))
      }
    }
    service.kill("SIGTERM")
    assert.strictEqual(await service.ended, 0)
    assert.match(service.stdout(), /^Consumer "deliveries" .* 0 unsettled\. Of 40 received: 40 acknowledged\.$/m)
  })

  it("takes an event once, however often it is sent", async () => {
    const service = await startWebhooks()
    const { received, url } = await receiver()
    await subscribe(service, url)
    const event = { id: "order-1", type: "test", data: { n: 0 } }
    const answers = []
    for (let i = 0; i < 2; i++) answers.push(await call(service, "POST", "/events", event))
    assert.deepStrictEqual(answers, [
      { status: 202, body: { id: "order-1", duplicate: false, subscribers: 1 } },
      { status: 202, body: { id: "order-1", duplicate: true, subscribers: 0 } }
    ])
    await send(service, 1)
    await poll("the next one is delivered", () => (received.length >= 2 ? true : undefined))
    assert.deepStrictEqual(numbers(received), [0, 1])
  })

  it("tries again with the same id until it is taken, in order, and waits as long as it is told to", async () => {
    const service = await startWebhooks()
    const attempts = new Map<number, number>()
    const times: Array<number> = []
    const { received, url } = await receiver((response, one) => {
      const attempt = (attempts.get(numberOf(one)) ?? 0) + 1
      attempts.set(numberOf(one), attempt)
      times.push(Date.now())
      if (attempt === 1) response.writeHead(500).end("no")
      // Not followed: it would be a request to where nobody has subscribed.
      else if (attempt === 2) response.writeHead(302, { location: url }).end()
      else if (attempt === 3) response.writeHead(429, { "retry-after": "1" }).end()
      else response.writeHead(200).end()
    })
    await subscribe(service, url)
    const ids = [await send(service, 0), await send(service, 1)]
    await poll("both are taken", () => (received.length >= 8 ? true : undefined))
    assert.deepStrictEqual(numbers(received), [0, 0, 0, 0, 1, 1, 1, 1])
    assert.deepStrictEqual([...new Set(received.map(({ headers }) => headers["webhook-id"]))], ids)
    assert.isAtLeast((times[3] ?? 0) - (times[2] ?? 0), 990)
    const subscribers = () => call(service, "GET", "/subscribers")
    const [subscriber] = await poll("all is well", async () => {
      const { body } = await subscribers()
      return body[0].problem === null ? body : undefined
    })
    assert.notProperty(subscriber, "secret")
  })

  it("does not let a subscriber that is down, or one that never answers, hold up another", async () => {
    const service = await startWebhooks(environment({ TIMEOUT_MILLIS: "60000", RETRY_MILLIS: "60000" }))
    const hanging = await receiver(() => {})
    const well = await receiver()
    await subscribe(service, hanging.url)
    await subscribe(service, "http://127.0.0.1:9/")
    await subscribe(service, well.url)
    const count = 600
    for (let n = 0; n < count; n++) await send(service, n)
    await poll("the one that is well has all", () => (well.received.length >= count ? true : undefined))
    assert.deepStrictEqual(numbers(well.received), upTo(count))
    assert.deepStrictEqual(numbers(hanging.received), [0])
    const { body } = await call(service, "GET", "/subscribers")
    assert.deepStrictEqual(
      body.map(({ problem }: Body) => problem),
      [null, "cannot reach it: connect ECONNREFUSED 127.0.0.1:9", null]
    )
  })

  it("sets aside what cannot be delivered, goes on, and sends it again when asked", async () => {
    const service = await startWebhooks(environment({ ATTEMPTS: "3", TIMEOUT_MILLIS: "200" }))
    let down = true
    const { received, url } = await receiver((response, one) => {
      if (!down) response.writeHead(204).end()
      // The first one gets no answer at all, the others a wrong one.
      else if (numberOf(one) > 0) response.writeHead(500).end()
    })
    const other = await receiver()
    const { id } = await subscribe(service, url)
    const { id: otherId } = await subscribe(service, other.url)
    const events = [await send(service, 0), await send(service, 1)]
    const letters = await poll("both are set aside", async () => {
      const { body } = await call(service, "GET", `/subscribers/${id}/dead-letters`)
      return body.length === 2 ? (body as ReadonlyArray<Body>) : undefined
    })
    assert.deepStrictEqual(numbers(received), [0, 0, 0, 1, 1, 1])
    assert.deepStrictEqual(
      letters.map(({ cause, event, reason }) => ({ cause, event, reason })),
      [
        { cause: "it did not answer within 200 ms", event: events[0], reason: "exhausted" },
        { cause: "it answered 500", event: events[1], reason: "exhausted" }
      ]
    )
    for (const { attempts } of letters) assert.lengthOf(attempts as ReadonlyArray<unknown>, 3)

    down = false
    const replay = (subscriber: string) => call(service, "POST", `/subscribers/${subscriber}/dead-letters/replay`, {})
    assert.deepInclude((await replay(otherId)).body, { matched: 0, replayed: 0 })
    assert.deepInclude((await replay(id)).body, { matched: 2, replayed: 2 })
    await poll("both are delivered", () => (received.length >= 8 ? true : undefined))
    assert.deepStrictEqual(numbers(received.slice(6)), [0, 1])
    assert.deepStrictEqual((await call(service, "GET", `/subscribers/${id}/dead-letters`)).body, [])
  })

  it("loses nothing when it is killed in mid-work, and keeps the order", async () => {
    const env = environment()
    const { received, url } = await receiver((response) => setTimeout(() => response.writeHead(204).end(), 10))
    const first = await startWebhooks(env)
    await subscribe(first, url)
    const taken: Array<string> = []
    for (const signal of ["SIGKILL", "SIGKILL", "SIGTERM"] as const) {
      const service = taken.length === 0 ? first : await startWebhooks(env)
      const enough = taken.length + 20
      for (;;) {
        const id = await send(service, taken.length).catch(() => undefined)
        if (id === undefined) break
        taken.push(id)
        if (taken.length === enough) service.kill(signal)
      }
      assert.strictEqual(await service.ended, signal === "SIGTERM" ? 0 : signal)
    }
    await startWebhooks(env)
    const has = () => new Set(received.map(({ headers }) => String(headers["webhook-id"])))
    await poll("all are delivered", () => (taken.every((id) => has().has(id)) ? true : undefined))
    const places = taken.map((id) => [...has()].indexOf(id))
    assert.deepStrictEqual(
      places,
      places.toSorted((a, b) => a - b)
    )
  })

  it("delivers nothing more to who is not subscribed any more", async () => {
    const service = await startWebhooks(environment({ RETRY_MILLIS: "200" }))
    const { received, url } = await receiver((response) => response.writeHead(500).end())
    const { id } = await subscribe(service, url)
    await send(service, 0)
    await poll("it is tried", () => (received.length > 0 ? true : undefined))
    assert.deepStrictEqual(await call(service, "DELETE", `/subscribers/${id}`), { status: 204, body: undefined })
    assert.deepStrictEqual((await call(service, "GET", "/subscribers")).body, [])
    await poll("it is dropped", () => (service.stderr().includes("nobody is subscribed any more") ? true : undefined))
    service.kill("SIGTERM")
    assert.strictEqual(await service.ended, 0)
    assert.match(service.stdout(), /1 dropped\.$/m)
  })

  it("says what is wrong with a request", async () => {
    const service = await startWebhooks()
    const refused = (body: unknown, path: string) => call(service, "POST", path, body)
    assert.deepStrictEqual(await refused({ url: "ftp://example.com", secret: "123" }, "/subscribers"), {
      status: 400,
      body: {
        error: "This is not a subscriber.",
        reasons: ["url: Expected an http(s) URL", 'secret: Expected "whsec_" and 24 to 64 bytes in base64']
      }
    })
    assert.deepStrictEqual(await refused({ id: "a b", type: "" }, "/events"), {
      status: 400,
      body: {
        error: "This is not an event.",
        reasons: [
          "id: Expected a string matching the RegExp ^[\\w.:-]{1,100}$",
          "type: Expected a value with a length of at least 1",
          "data: Missing key"
        ]
      }
    })
    for (const [method, path] of [
      ["DELETE", "/subscribers/nr-1"],
      ["GET", "/subscribers/nr-1/dead-letters"]
    ] as const) {
      assert.deepStrictEqual(await call(service, method, path), {
        status: 404,
        body: { error: "There is no subscriber nr-1." }
      })
    }
  })

  it.runIf(existsSync("/usr/bin/curl"))("prints lines that work", async () => {
    const service = await startWebhooks(environment({ RETRY_MILLIS: "60000" }))
    const output = execFileSync("sh", ["-c", linesToTry(service)], { encoding: "utf8", stdio: "pipe", timeout: 50_000 })
    assert.match(output, /^\{"id":".*","url":"http:\/\/127\.0\.0\.1:\d+","secret":"whsec_.*"/m)
    assert.match(output, /^HTTP\/1\.1 202 Accepted\r$/m)
    assert.match(output, /^\{"id":"order-1","duplicate":false,"subscribers":2\}$/m)
    assert.match(output, /^\{"id":"order-1","duplicate":true,"subscribers":0\}$/m)
    assert.match(output, /^received order-1: \{"type":"order.placed",.*"data":\{"total":12\}\}$/m)
    assert.match(output, /"problem":"cannot reach it: connect ECONNREFUSED/)
    assert.match(output, /^\{"matched":0,"replayed":0,.*\}$/m)
    assert.match(output, /^HTTP\/1\.1 204 No Content\r$/m)
    // The last two lines asked for a dump and the end.
    assert.strictEqual(await service.ended, 0)
    assert.match(service.stderr(), /^Consumer "webhooks.delivery\/deliveries" \(/m)
  })
})
