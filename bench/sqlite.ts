/**
 * The benchmarks of the embedded broker: the driver beside what one would write by hand, Effect's own queue on the same
 * client, and a queue from npm. All of them on a file in WAL mode with `synchronous = FULL`.
 */
import type { Bench, Contestant } from "./harness.ts"
import { backlog, consumer, millrace, persistedQueue, plainjob, rawStatements } from "./sqlitePeers.ts"

const rates = { "messages/s": "more" } as const

const cycle = (publishers: number, ours: Contestant): Pick<Bench, "units" | "ours" | "peers"> => ({
  units: rates,
  ours,
  peers: [
    rawStatements(16, 40_000),
    rawStatements(100, 40_000),
    persistedQueue.cycle(publishers, 5_000),
    plainjob(publishers, 5_000)
  ]
})

export const benches: ReadonlyArray<Bench> = [
  {
    name: "handled-16",
    about:
      "16 publishers that await each message of 200 bytes, one consumer with a schema, an envelope and a no-op handler",
    ...cycle(16, consumer.cycle(16, 40_000))
  },
  {
    name: "handled-16-keys",
    about: "the same in order for each of 1,000 keys",
    units: rates,
    ours: consumer.cycle(16, 40_000, "key"),
    peers: [{ ...consumer.cycle(16, 40_000), name: "itself without order" }]
  },
  {
    name: "cycle-16",
    about: "16 publishers that await each message of 200 bytes, takes and acknowledgements: the driver alone",
    ...cycle(16, millrace.cycle(16, 40_000))
  },
  {
    name: "cycle-256",
    about: "the same with 256 publishers",
    ...cycle(256, millrace.cycle(256, 40_000))
  },
  {
    name: "backlog-1m",
    about: "take and acknowledge 20,000 messages in takes of 100 while 1,000,000 wait, beside 20,000 that wait",
    units: { "us/message": "less" },
    ours: backlog("millrace", 1_000_000, 20_000),
    peers: [backlog("self at 20,000", 20_000, 20_000)]
  },
  {
    name: "idle-latency",
    about: "from publish to the handler of an idle consumer, median of 200",
    units: { ms: "less" },
    ours: consumer.latency(200),
    peers: [persistedQueue.latency(200)]
  }
]
