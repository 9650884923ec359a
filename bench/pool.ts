/**
 * The benchmarks of the pool: ours beside promise libraries, what Effect's own parts make, and Go where it is installed.
 */
import type { Bench, Contestant } from "./harness.ts"
import {
  bottleneck,
  bottleneckGroup,
  capacity,
  fastqValues,
  fiberSet,
  millrace,
  millraceWith,
  pLimiter,
  pQueue,
  pQueuePerKey,
  queueWorkers,
  queueWorkersWith,
  slots
} from "./peers.ts"
import { goPrograms, script } from "./programs.ts"
import type { Kind } from "./work.ts"
import { keyed, noOp, producers, queuedFirst, stepping, submitAwait, suspending } from "./work.ts"

const tasks = 200_000
/** Bottleneck takes some thousand times as long, so it has less to do; rates are compared. */
const fewTasks = 1_000
const million = 1_000_000
const keys = 100_000

const rates = { "tasks/s": "more" } as const
const promisePeers = [fastqValues, pQueue, pLimiter]

const submitting = (kind: Kind): Pick<Bench, "units" | "ours" | "peers"> => ({
  units: rates,
  ours: submitAwait.effect(millrace, kind, tasks),
  peers: [
    ...promisePeers.map((peer) => submitAwait.promise(peer, kind, tasks)),
    submitAwait.promise(bottleneck, kind, fewTasks),
    submitAwait.effect(queueWorkers, kind, tasks),
    submitAwait.effect(fiberSet, kind, tasks)
  ]
})

const producing = (kind: Kind, count: number): Pick<Bench, "units" | "ours" | "peers"> => ({
  units: rates,
  ours: producers.effect(millrace, kind, count, tasks),
  peers: [
    ...promisePeers.map((peer) => producers.promise(peer, kind, count, tasks)),
    producers.promise(bottleneck, kind, count, fewTasks),
    producers.effect(queueWorkers, kind, count, tasks),
    producers.effect(fiberSet, kind, count, tasks)
  ]
})

const goSubmitting = (): Promise<ReadonlyArray<Contestant>> => {
  const sizes = [tasks, slots, capacity].map(String)
  return goPrograms(
    { name: "Go channel + workers + recover", args: ["channel", ...sizes] },
    { name: "Go pond v2", args: ["pond", ...sizes] }
  )
}

export const benches: ReadonlyArray<Bench> = [
  {
    name: "submit-await",
    about: "submit 200,000 no-op tasks, then await them all; 64 slots, capacity 1024",
    ...submitting(noOp),
    optional: goSubmitting
  },
  {
    name: "submit-await-gen",
    about: "as submit-await, with an Effect.gen of one yield* where the task is an effect, which needs a fiber",
    ...submitting(stepping)
  },
  {
    name: "run-256",
    about: "256 producers, each of which awaits one no-op task after the other",
    ...producing(noOp, 256)
  },
  {
    name: "run-256-gen",
    about: "as run-256, with the tasks of submit-await-gen",
    ...producing(stepping, 256)
  },
  {
    name: "suspend-once",
    about: "as submit-await, with tasks that await a resolved promise",
    ...submitting(suspending)
  },
  {
    name: "suspend-once-256",
    about: "as run-256, with tasks that await a resolved promise",
    ...producing(suspending, 256)
  },
  {
    name: "suspend-once-full",
    about:
      "as suspend-once with a capacity of 64, so that the producer waits for places; promise libraries have no bound",
    units: rates,
    ours: submitAwait.effect(millraceWith("millrace", slots), suspending, tasks),
    peers: [
      submitAwait.effect(millraceWith("self at 1,024", capacity), suspending, tasks),
      submitAwait.effect(queueWorkersWith(slots), suspending, tasks)
    ]
  },
  {
    name: "queued-1m",
    about: "1,000,000 tasks queued at once and then run; beside our own 1,000 at once and beside others",
    units: { "ns/task": "less" },
    ours: queuedFirst.ours("millrace", million, 1),
    peers: [
      queuedFirst.ours("self at 1,000", 1_000, 500),
      ...promisePeers.map((peer) => queuedFirst.promise(peer, million))
    ]
  },
  {
    name: "queued-bytes",
    about: "heap for each of 200,000 queued tasks, with its closure and its handle",
    units: { "bytes/task": "less" },
    ours: script("millrace", "bytes.ts", "millrace"),
    peers: [
      script("fastq, a closure per task", "bytes.ts", "fastq"),
      script("fastq, values only", "bytes.ts", "fastq-values"),
      script("p-queue", "bytes.ts", "p-queue"),
      script("p-limit", "bytes.ts", "p-limit"),
      script("Effect Queue + Deferred", "bytes.ts", "queue")
    ]
  },
  {
    name: "keys-100k",
    about: "300,000 tasks of 100,000 keys queued at once and then run, in order within each key",
    units: rates,
    ours: keyed.ours("millrace", keys, 3 * keys, true),
    peers: [
      keyed.ours("self unkeyed", keys, 3 * keys, false),
      keyed.promise("p-queue per key", keys, 3 * keys, pQueuePerKey),
      keyed.promise("Bottleneck.Group", 1_000, 3_000, bottleneckGroup)
    ]
  },
  {
    name: "sleeps",
    about: "100,000 sleeps of 10 ms, 50,000 at once, in a process of its own",
    units: { ms: "less", "MB peak rss": "less" },
    ours: script("millrace", "sleeps.ts", "millrace"),
    peers: [script("bare timers", "sleeps.ts", "timers"), script("Effect.forEach", "sleeps.ts", "forEach")],
    optional: () => goPrograms({ name: "Go goroutines", args: ["sleeps", "100000", "50000", "10"] })
  }
]
