/**
 * One small adapter for each contestant, in the way in which its own documentation uses it.
 */
import Bottleneck from "bottleneck"
import { Deferred, Effect, Fiber, FiberSet, Queue, type Scope, Semaphore } from "effect"
import fastq from "fastq"
import { WorkerPool } from "millrace"
import pLimit from "p-limit"
import PQueue from "p-queue"

export const slots = 64
export const capacity = 1024

// -----------------------------------------------------------------------------------------------------------------------
// Promise libraries. None of them bounds its backlog.
// -----------------------------------------------------------------------------------------------------------------------

export type Task = (i: number) => Promise<number>

export interface Limiter {
  /** Queues the task for this number. */
  readonly push: (i: number) => Promise<number>
  /** Starts nothing more until `release`. */
  readonly hold: () => void
  readonly release: () => void
}

export interface PromisePeer {
  readonly name: string
  readonly open: (task: Task) => Limiter
}

/** One function for all tasks and a number for each: what fastq is made for, and the fastest way to use it. */
export const fastqValues: PromisePeer = {
  name: "fastq",
  open: (task) => {
    const queue = fastq.promise(task, slots)
    return { push: (i) => queue.push(i), hold: () => queue.pause(), release: () => queue.resume() }
  }
}

/** A function for each task, as the other libraries take it. */
export const fastqClosures: PromisePeer = {
  name: "fastq, a closure per task",
  open: (task) => {
    const queue = fastq.promise((work: () => Promise<number>) => work(), slots)
    return { push: (i) => queue.push(() => task(i)), hold: () => queue.pause(), release: () => queue.resume() }
  }
}

export const pQueue: PromisePeer = {
  name: "p-queue",
  open: (task) => {
    const queue = new PQueue({ concurrency: slots })
    return { push: (i) => queue.add(() => task(i)), hold: () => queue.pause(), release: () => queue.start() }
  }
}

export const pLimiter: PromisePeer = {
  name: "p-limit",
  open: (task) => {
    const limit = pLimit(slots)
    let open = () => {}
    // It cannot be paused, so all its slots are taken until the release.
    const hold = () => {
      const gate = new Promise<void>((resolve) => {
        open = resolve
      })
      for (let i = 0; i < slots; i++) void limit(() => gate)
    }
    return { push: (i) => limit(() => task(i)), hold, release: () => open() }
  }
}

export const bottleneck: PromisePeer = {
  name: "Bottleneck",
  open: (task) => {
    const limiter = new Bottleneck({ maxConcurrent: slots })
    const unsupported = () => {
      throw new Error("Bottleneck cannot be paused")
    }
    return { push: (i) => limiter.schedule(() => task(i)), hold: unsupported, release: unsupported }
  }
}

/** Work of one key runs one at a time and in order. */
export type KeyedPush = (key: string, work: () => Promise<number>) => Promise<number>

/** A queue of its own for each key; nothing limits how many keys run at a time. */
export const pQueuePerKey = (): KeyedPush => {
  const queues = new Map<string, PQueue>()
  return (key, work) => {
    let queue = queues.get(key)
    if (queue === undefined) {
      queue = new PQueue({ concurrency: 1 })
      queues.set(key, queue)
    }
    return queue.add(work)
  }
}

export const bottleneckGroup = (): KeyedPush => {
  const group = new Bottleneck.Group({ maxConcurrent: 1 })
  return (key, work) => group.key(key).schedule(work)
}

// -----------------------------------------------------------------------------------------------------------------------
// Effect: ours, and what can be built from Effect's own parts
// -----------------------------------------------------------------------------------------------------------------------

type Work = Effect.Effect<number>

export interface Runner<H, E> {
  /** Starts or queues the work. */
  readonly submit: (work: Work) => Effect.Effect<H, E>
  readonly result: (handle: H) => Effect.Effect<number, E>
  /** Both. */
  readonly run: (work: Work) => Effect.Effect<number, E>
}

export interface EffectPeer<H, E> {
  readonly name: string
  readonly open: Effect.Effect<Runner<H, E>, never, Scope.Scope>
}

type Millrace = EffectPeer<WorkerPool.TaskHandle<number, WorkerPool.PoolClosed>, WorkerPool.PoolClosed>

export const millraceWith = (name: string, capacity: number): Millrace => ({
  name,
  open: Effect.map(WorkerPool.make({ name: "bench", concurrency: slots, capacity }), (pool) => ({
    submit: (work) => pool.submit(work),
    result: (handle) => handle.await,
    run: (work) => pool.run(work)
  }))
})
export const millrace = millraceWith("millrace", capacity)

export const makeQueueWorkers = (capacity: number) =>
  Effect.gen(function* () {
    const queue = yield* Queue.bounded<{ readonly work: Work; readonly done: Deferred.Deferred<number> }>(capacity)
    // Without a yield after every task, which would make it slower.
    const worker = Effect.forever(
      Effect.flatMap(Queue.take(queue), ({ done, work }) => Deferred.into(work, done)),
      { disableYield: true }
    )
    const submit = (work: Work) =>
      Effect.suspend(() => {
        const done = Deferred.makeUnsafe<number>()
        return Effect.as(Queue.offer(queue, { work, done }), done)
      })
    const start = Effect.replicateEffect(Effect.forkScoped(worker), slots, { discard: true })
    return { start, submit }
  })

export const queueWorkersWith = (capacity: number): EffectPeer<Deferred.Deferred<number>, never> => ({
  name: "Effect Queue + workers + Deferred",
  open: Effect.gen(function* () {
    const { start, submit } = yield* makeQueueWorkers(capacity)
    yield* start
    return { submit, result: Deferred.await, run: (work) => Effect.flatMap(submit(work), Deferred.await) }
  })
})
export const queueWorkers = queueWorkersWith(capacity)

/** A fiber for each task from the start: it has no backlog, and nothing bounds the number of fibers. */
export const fiberSet: EffectPeer<Fiber.Fiber<number>, never> = {
  name: "FiberSet + Semaphore",
  open: Effect.gen(function* () {
    const set = yield* FiberSet.make<number, never>()
    const semaphore = yield* Semaphore.make(slots)
    const submit = (work: Work) => FiberSet.run(set, semaphore.withPermit(work))
    return { submit, result: Fiber.join, run: (work) => Effect.flatMap(submit(work), Fiber.join) }
  })
}
