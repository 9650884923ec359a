/**
 * A program: how many bytes of heap one queued task takes in the contestant that its argument names.
 *
 * Counted is all that is alive while the tasks wait: the task's own function or effect, made for each; what the contestant
 * keeps of it; its promise or handle; and the place in the array in which the producer keeps that. Nothing is subtracted.
 */
import { Deferred, Effect } from "effect"
import { WorkerPool } from "millrace"
import { verify } from "./harness.ts"
import type { PromisePeer } from "./peers.ts"
import { fastqClosures, fastqValues, makeQueueWorkers, pLimiter, pQueue, slots } from "./peers.ts"
import { noOp } from "./work.ts"

const tasks = 200_000

const heapUsed = (): number => {
  if (globalThis.gc === undefined) throw new Error("needs --expose-gc")
  // The second run collects what the first one's finalizers let go of.
  globalThis.gc()
  globalThis.gc()
  return process.memoryUsage().heapUsed
}

const ofPromises = async (peer: PromisePeer): Promise<number> => {
  const { hold, push, release } = peer.open(noOp.promise)
  hold()
  const before = heapUsed()
  const results: Array<Promise<number>> = []
  for (let i = 0; i < tasks; i++) results.push(push(i))
  // Promise libraries may do a part of their queuing in a microtask.
  await new Promise((resolve) => setImmediate(resolve))
  const bytes = heapUsed() - before
  release()
  verify(
    (await Promise.all(results)).reduce((sum, n) => sum + n, 0),
    tasks
  )
  return bytes
}

const ofOurs = Effect.gen(function* () {
  const pool = yield* WorkerPool.make({ name: "bytes", concurrency: slots, capacity: tasks })
  yield* pool.pause
  const before = heapUsed()
  const handles: Array<WorkerPool.TaskHandle<number, WorkerPool.PoolClosed>> = []
  for (let i = 0; i < tasks; i++) handles.push(yield* pool.submit(noOp.effect(i)))
  const bytes = heapUsed() - before
  yield* pool.resume
  let sum = 0
  for (const handle of handles) sum += yield* handle.await
  verify(sum, tasks)
  return bytes
})

const ofQueue = Effect.gen(function* () {
  const { start, submit } = yield* makeQueueWorkers(tasks)
  const before = heapUsed()
  const handles: Array<Deferred.Deferred<number>> = []
  for (let i = 0; i < tasks; i++) handles.push(yield* submit(noOp.effect(i)))
  const bytes = heapUsed() - before
  yield* start
  let sum = 0
  for (const handle of handles) sum += yield* Deferred.await(handle)
  verify(sum, tasks)
  return bytes
})

const contestants: Readonly<Record<string, () => Promise<number>>> = {
  millrace: () => Effect.runPromise(Effect.scoped(ofOurs)),
  queue: () => Effect.runPromise(Effect.scoped(ofQueue)),
  fastq: () => ofPromises(fastqClosures),
  "fastq-values": () => ofPromises(fastqValues),
  "p-queue": () => ofPromises(pQueue),
  "p-limit": () => ofPromises(pLimiter)
}

const name = process.argv[2] ?? ""
const bytes = await contestants[name]?.()
if (bytes === undefined) throw new Error(`no contestant "${name}": one of ${Object.keys(contestants).join(", ")}`)
process.stdout.write(`${JSON.stringify({ "bytes/task": bytes / tasks })}\n`)
