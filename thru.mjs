import { Deferred, Effect, Schema } from "effect"
import { Consumer, Topic } from "millrace"
import { Memory } from "millrace/memory"

const T = Topic.make("t", {
  schema: Schema.Struct({ orderId: Schema.String, total: Schema.Number, text: Schema.String }),
  version: 1,
  key: (o) => o.orderId
})
const N = 100000
const text = "x".repeat(150)
for (const order of [undefined, "key"])
  for (let round = 0; round < 3; round++) {
    const t = await Effect.runPromise(
      Effect.gen(function* () {
        let t0 = performance.now()
        for (let i = 0; i < N; i += 1000)
          yield* T.publishAll(
            Array.from({ length: 1000 }, (_, j) => ({ orderId: "o" + ((i + j) % 1000), total: j, text }))
          )
        const pub = (N / (performance.now() - t0)) * 1000
        const done = yield* Deferred.make()
        let n = 0
        t0 = performance.now()
        const c = yield* Consumer.make(
          T,
          () =>
            Effect.sync(() => {
              if (++n === N) Deferred.doneUnsafe(done, Effect.void)
            }),
          { group: "g", order, prefetch: 512, concurrency: 64 }
        )
        yield* Deferred.await(done)
        return [order, "publish/s", Math.round(pub), "consume/s", Math.round((N / (performance.now() - t0)) * 1000)]
      }).pipe(Effect.scoped, Effect.provide(Memory.layer({ retain: 1000000 })))
    )
    console.log(...t)
  }
