/** `examples/orders` on brokers with a server: the same service, on another one. */

import { Admin } from "@platformatic/kafka"
import { Effect } from "effect"
import { assert, describe, it, onTestFinished } from "vitest"
import type { Service, Variables } from "../examples/orders.ts"
import {
  assertClean,
  bodyOf,
  deadLetters,
  environment,
  historyOf,
  order,
  place,
  post,
  settled,
  smsSent,
  startOrders
} from "../examples/orders.ts"
import { poll } from "../examples/program.ts"
import { describeWith, type Server } from "./services.ts"

/** A virtual host of its own, so that nothing is left of an earlier run. */
const rabbitmqOf = async (server: Server<"rabbitmq">): Promise<Variables> => {
  const ctl = (...args: ReadonlyArray<string>) => Effect.runPromise(server.exec(["rabbitmqctl", "-q", ...args]))
  const host = `orders-${crypto.randomUUID().slice(0, 8)}`
  await ctl("add_vhost", host)
  onTestFinished(async () => void (await ctl("delete_vhost", host)))
  await ctl("set_permissions", "-p", host, "guest", ".*", ".*", ".*")
  return { RABBITMQ_URL: new URL(host, `${server.urls.amqp}/`).href }
}

/** NSQ has one space for all names. */
const nsqOf = async ({ urls }: Server<"nsq">): Promise<Variables> => {
  const groups = ["sms", "stock"].flatMap((group) => [
    `orders.placed..${group}..retry`,
    `orders.placed..${group}..dead`
  ])
  for (const topic of ["orders.placed", ...groups]) {
    for (const url of [urls.lookupd, urls.nsqd1Http, urls.nsqd2Http]) {
      await fetch(`${url}/topic/delete?topic=${topic}`, { method: "POST" })
    }
  }
  return { NSQ_LOOKUPD: urls.lookupd }
}

/**
 * Kafka has one space for all names too. A group goes first, when the last member of an earlier run is missed, and then its
 * topics: else it would go on in new topics where it was in the old ones.
 */
const kafkaOf = async (broker: string): Promise<Variables> => {
  const admin = new Admin({ clientId: "test", bootstrapBrokers: [broker] })
  const gone = (what: string, left: () => Promise<ReadonlyArray<string>>, remove: (names: Array<string>) => unknown) =>
    poll(`${what} of earlier runs are gone`, async () => {
      const names = (await left()).filter((name) => name.startsWith("orders.placed"))
      if (names.length === 0) return true
      await Promise.resolve(remove(names)).catch(() => undefined)
      return undefined
    })
  try {
    await gone(
      "groups",
      async () => [...(await admin.listGroups({ types: ["classic", "consumer"] })).keys()],
      (groups) => admin.deleteGroups({ groups })
    )
    await gone(
      "topics",
      () => admin.listTopics(),
      (topics) => admin.deleteTopics({ topics })
    )
  } finally {
    await admin.close()
  }
  return { KAFKA_BROKERS: broker }
}

/** What came of seven orders for a chair, of which there are five, by the order of the orders. */
const chairs = async (service: Service): Promise<Array<unknown>> => {
  const ids: Array<string> = []
  for (let n = 0; n < 7; n++) ids.push(await place(service, { product: "chair" }))
  const stock: Array<unknown> = []
  for (const id of ids) stock.push((await settled(service, id)).stock)
  return stock
}

const tests = (broker: string, at: () => Promise<Variables>) => {
  const args = ["--broker", broker]
  const settings = async (changes: Variables = {}) => environment({ ...(await at()), ...changes })

  it("works orders off, sets aside what is rejected, shows it and replays it, and drains when it is told to stop", async () => {
    const env = await settings()
    const service = await startOrders(env, args)
    const good = await place(service)
    const status = await settled(service, good)
    assert.deepInclude(status, { sms: "sent", stock: "reserved" })
    assert.sameMembers(historyOf(status), ["placed", "stock: 2 reserved", "sms: sent"])

    const bad = await place(service, { phone: "+491701234569" })
    assert.deepInclude(await settled(service, bad), { sms: "dead", stock: "reserved" })
    const letters = await deadLetters(service)
    assert.deepInclude(letters[0], {
      id: bad,
      group: "sms",
      reason: "decision",
      cause: "the gateway knows nobody with +491701234569"
    })
    assert.strictEqual(letters.length, 1)
    const replay = (body: unknown) => bodyOf(post(service, "/dead-letters/replay", body))
    assert.deepInclude(await replay({ ids: [bad], phone: "+491701234560" }), { matched: 1, replayed: 1, failed: [] })
    await settled(service, bad, "sent")
    assert.deepStrictEqual([...smsSent(env)], [good, bad])
    assert.deepStrictEqual(await deadLetters(service), [])

    service.kill("SIGTERM")
    assert.strictEqual(await service.ended, 0)
    for (const group of ["sms", "stock"]) assertClean(service, group)
  })

  it("keeps letters over a restart", async () => {
    const env = await settings()
    const service = await startOrders(env, args)
    const id = await place(service, { phone: "+491701234569" })
    await settled(service, id, "dead")
    service.kill("SIGKILL")
    await service.ended
    const again = await startOrders(env, args)
    assert.deepInclude((await deadLetters(again))[0], { id, group: "sms" })
    // It may be there twice: the process was killed before it could say that it had set it aside.
    const report = await bodyOf(post(again, "/dead-letters/replay", {}))
    assert.include([1, 2], (report as { readonly replayed: number }).replayed)
    const replayed = async () => (await deadLetters(again)).some(({ replays }) => replays === 1) || undefined
    await poll("it is dead again", replayed)
  })

  it("loses no order that was answered, when it is killed and when it is told to stop in mid-work", async () => {
    const env = await settings({ SMS_MILLIS: "50" })
    const accepted: Array<string> = []
    for (const signal of ["SIGKILL", "SIGTERM"] as const) {
      const service = await startOrders(env, args)
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
    const service = await startOrders(env, args)
    for (const id of accepted) {
      const status = await settled(service, id)
      assert.deepInclude(status, { sms: "sent", stock: "reserved" })
      assert.sameMembers(historyOf(status), ["placed", "stock: 2 reserved", "sms: sent"])
    }
    assert.includeMembers([...smsSent(env)], accepted)
    assert.strictEqual(new Set(smsSent(env)).size, smsSent(env).length)
  })

  return { args, settings }
}

describe("examples/orders", { timeout: 120_000 }, () => {
  describeWith("kafka", (server) => {
    const { args, settings } = tests("kafka", () => kafkaOf(server.urls.bootstrap))

    it("gives what is left to who ordered first", async () => {
      const service = await startOrders(await settings(), args)
      assert.deepStrictEqual(await chairs(service), [...Array(5).fill("reserved"), "sold out", "sold out"])
    })
  })

  describeWith("rabbitmq", (server) => {
    const { args, settings } = tests("rabbitmq", () => rabbitmqOf(server))

    it("gives what is left to who ordered first", async () => {
      const service = await startOrders(await settings(), args)
      assert.deepStrictEqual(await chairs(service), [...Array(5).fill("reserved"), "sold out", "sold out"])
    })
  })

  describeWith("nsq", (server) => {
    const { args, settings } = tests("nsq", () => nsqOf(server))

    it("books what is there, and nothing twice, in whatever order", async () => {
      const service = await startOrders(await settings(), args)
      assert.sameMembers(await chairs(service), [...Array(5).fill("reserved"), "sold out", "sold out"])
    })
  })
})
