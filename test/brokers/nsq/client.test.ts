/** The client by itself on a real nsqd. */
import { assert, it } from "@effect/vitest"
import { Deferred, Effect, Queue } from "effect"
import { NsqProtocol } from "millrace/nsq"
import { describeWith } from "../services.ts"
import { fresh, hostAndPort } from "./support.ts"

const { ask, Command, connect, ConnectionLost, Lookup, ServerError } = NsqProtocol

describeWith("nsq", (nsq) => {
  const { lookupd, nsqd1, nsqd1Http } = nsq.urls
  const place = hostAndPort(nsqd1)

  /** A connection that reads a channel. */
  const reader = (topic: string, options: Partial<NsqProtocol.ConnectOptions> = {}) =>
    Effect.gen(function* () {
      const messages = yield* Queue.unbounded<NsqProtocol.Message>()
      const failures = yield* Queue.unbounded<NsqProtocol.ServerError>()
      const connection = yield* connect({
        ...place,
        outputBufferTimeout: 25,
        onMessage: (message) => Queue.offerUnsafe(messages, message),
        onFailed: (error) => Queue.offerUnsafe(failures, error),
        ...options
      })
      yield* ask(connection, Command.sub(topic, "c"))
      return { connection, messages, failures }
    })

  it.live("agrees on features, publishes one, many and a delayed one, and gets them", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const { connection, messages } = yield* reader(topic, { msgTimeout: 50_000 })
      assert.strictEqual(connection.features.msgTimeout, 50_000)
      assert.strictEqual(connection.features.maxRdyCount, 2500)
      assert.match(connection.features.version, /^1\./)
      connection.send(Command.rdy(10))
      yield* ask(connection, Command.pub(topic, Buffer.from("a")))
      yield* ask(connection, Command.mpub(topic, [Buffer.from("b"), Buffer.from("c")]))
      yield* ask(connection, Command.dpub(topic, 50, Buffer.from("d")))
      const got = yield* Effect.replicateEffect(Queue.take(messages), 4)
      assert.deepStrictEqual(got.map(({ body }) => body.toString()).toSorted(), ["a", "b", "c", "d"])
      for (const { id } of got) connection.send(Command.fin(id))
      assert.strictEqual((yield* ask(connection, Command.cls)).toString(), "CLOSE_WAIT")
      const stats = yield* Lookup.stats(nsqd1Http, topic)
      assert.strictEqual(stats?.channels?.[0]?.in_flight_count, 0)
      assert.isTrue((yield* Lookup.nodes(lookupd)).some(({ tcpPort }) => tcpPort === place.port))
    }).pipe(Effect.scoped)
  )

  it.live("tells errors that close a connection from those that do not", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const { connection, failures } = yield* reader(topic)
      for (const command of [Command.fin, (id: string) => Command.req(id, 0), Command.touch]) {
        connection.send(command("0123456789abcdef"))
        const error = yield* Queue.take(failures)
        assert.match(error.code, /^E_(FIN|REQ|TOUCH)_FAILED$/)
        assert.isFalse(error.closes)
      }
      assert.isTrue(connection.isOpen)
      const error = yield* Effect.flip(ask(connection, Command.pub("no/topic", Buffer.from("x"))))
      assert.isTrue(error instanceof ServerError && error.closes)
      assert.instanceOf(yield* connection.closed, ConnectionLost)
      assert.instanceOf(yield* Effect.flip(ask(connection, Command.pub(topic, Buffer.from("x")))), ConnectionLost)
    }).pipe(Effect.scoped)
  )

  it.live("says of what was sent behind a refused command that it was not done", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const connection = yield* connect(place)
      const answers: Array<unknown> = []
      const done = yield* Deferred.make<void>()
      connection.request([Command.pub(topic, Buffer.from("before"))], (answer) => answers.push(answer))
      connection.request([Command.pub(topic, Buffer.alloc(2_000_000))], (answer) => answers.push(answer))
      connection.request([Command.pub(topic, Buffer.from("behind"))], (answer) => {
        answers.push(answer)
        Deferred.doneUnsafe(done, Effect.void)
      })
      yield* Deferred.await(done)
      assert.strictEqual(String(answers[0]), "OK")
      assert.strictEqual(answers[1] instanceof ServerError && answers[1].code, "E_BAD_MESSAGE")
      assert.strictEqual(answers[2], "NotDone")
      assert.strictEqual((yield* Lookup.stats(nsqd1Http, topic))?.depth, 1)
    }).pipe(Effect.scoped)
  )

  it.live("a FIN after the message timeout is told by the id that it was for", () =>
    Effect.gen(function* () {
      const topic = fresh()
      const { connection, failures, messages } = yield* reader(topic, { msgTimeout: 1000 })
      yield* ask(connection, Command.pub(topic, Buffer.from("x")))
      connection.send(Command.rdy(1))
      const first = yield* Queue.take(messages)
      connection.send(Command.rdy(0))
      const stats = Lookup.stats(nsqd1Http, topic)
      yield* Effect.repeat(stats, { until: (stats) => stats?.channels?.[0]?.in_flight_count === 0 })
      connection.send(Command.fin(first.id))
      const error = yield* Queue.take(failures)
      assert.strictEqual(error.code, "E_FIN_FAILED")
      assert.include(error.detail, first.id)
    }).pipe(Effect.scoped)
  )

  it.live("nobody there, a server that is no nsqd, and options that it refuses are typed errors", () =>
    Effect.gen(function* () {
      const nobody = yield* Effect.flip(connect({ host: "127.0.0.1", port: 1 }))
      assert.isTrue(nobody instanceof ConnectionLost && nobody.refused)
      const http = yield* Effect.flip(connect(hostAndPort(nsqd1Http.slice("http://".length))))
      assert.instanceOf(http, ConnectionLost)
      const refused = yield* Effect.flip(connect({ ...place, msgTimeout: 5 }))
      assert.strictEqual(refused instanceof ServerError && refused.code, "E_BAD_BODY")
      const noTls = yield* Effect.flip(connect({ ...place, tls: {} }))
      assert.strictEqual(noTls instanceof ServerError && noTls.code, "E_TLS")
    }).pipe(Effect.scoped)
  )
})
