/**
 * The shapes of work that are measured, once for promise libraries and once for effects. Both do the same: the same
 * tasks, in the same order, by the same number of producers, with the results read and summed up.
 */
import { performance } from "node:perf_hooks"
import type { Scope } from "effect"
import { Effect } from "effect"
import { WorkerPool } from "millrace"
import type { Contestant, Sample } from "./harness.ts"
import { cost, rate, verify } from "./harness.ts"
import type { EffectPeer, KeyedPush, PromisePeer, Task } from "./peers.ts"
import { slots } from "./peers.ts"

/** What a task is: nothing at all, something in two steps, or one wait for a promise that is there already. */
export interface Kind {
  readonly promise: Task
  readonly effect: (i: number) => Effect.Effect<number>
}

export const noOp: Kind = {
  promise: async (i) => i,
  effect: (i) => Effect.sync(() => i)
}

/** One function is all that a task of {@link noOp} is, which ours runs without a fiber; this one needs a fiber. */
export const stepping: Kind = {
  promise: noOp.promise,
  effect: (i) =>
    Effect.gen(function* () {
      return yield* Effect.sync(() => i)
    })
}

export const suspending: Kind = {
  promise: async (i) => {
    await null
    return i
  },
  effect: (i) => Effect.promise(() => Promise.resolve(i))
}

const sumOf = (numbers: ReadonlyArray<number>): number => numbers.reduce((sum, n) => sum + n, 0)

/** One producer submits everything and then awaits everything. */
export const submitAwait = {
  promise: (peer: PromisePeer, kind: Kind, tasks: number): Contestant => ({
    name: peer.name,
    measure: async () => {
      const { push } = peer.open(kind.promise)
      const start = performance.now()
      const results: Array<Promise<number>> = []
      for (let i = 0; i < tasks; i++) results.push(push(i))
      verify(sumOf(await Promise.all(results)), tasks)
      return rate(tasks, start)
    }
  }),
  effect: <H, E>(peer: EffectPeer<H, E>, kind: Kind, tasks: number): Contestant => ({
    name: peer.name,
    measure: () =>
      runScoped(
        Effect.gen(function* () {
          const { result, submit } = yield* peer.open
          const start = performance.now()
          const handles: Array<H> = []
          for (let i = 0; i < tasks; i++) handles.push(yield* submit(kind.effect(i)))
          let sum = 0
          for (const handle of handles) sum += yield* result(handle)
          verify(sum, tasks)
          return rate(tasks, start)
        })
      )
  })
}

/** Many producers, each of which awaits one task before it submits the next. */
export const producers = {
  promise: (peer: PromisePeer, kind: Kind, count: number, tasks: number): Contestant => ({
    name: peer.name,
    measure: async () => {
      const { push } = peer.open(kind.promise)
      const start = performance.now()
      let next = 0
      let sum = 0
      const produce = async () => {
        while (next < tasks) {
          const result = await push(next++)
          sum += result
        }
      }
      await Promise.all(Array.from({ length: count }, produce))
      verify(sum, tasks)
      return rate(tasks, start)
    }
  }),
  effect: <H, E>(peer: EffectPeer<H, E>, kind: Kind, count: number, tasks: number): Contestant => ({
    name: peer.name,
    measure: () =>
      runScoped(
        Effect.gen(function* () {
          const { run } = yield* peer.open
          const start = performance.now()
          let next = 0
          let sum = 0
          const produce = Effect.gen(function* () {
            while (next < tasks) {
              const result = yield* run(kind.effect(next++))
              sum += result
            }
          })
          yield* Effect.forEach(Array.from({ length: count }), () => produce, { concurrency: count, discard: true })
          verify(sum, tasks)
          return rate(tasks, start)
        })
      )
  })
}

/** Everything is queued while nothing may start, and then runs; `times` over, so that few tasks are measurable too. */
export const queuedFirst = {
  promise: (peer: PromisePeer, tasks: number): Contestant => ({
    name: peer.name,
    measure: async () => {
      const { hold, push, release } = peer.open(noOp.promise)
      const start = performance.now()
      hold()
      const results: Array<Promise<number>> = []
      for (let i = 0; i < tasks; i++) results.push(push(i))
      release()
      verify(sumOf(await Promise.all(results)), tasks)
      return cost(tasks, start)
    }
  }),
  ours: (name: string, tasks: number, times: number): Contestant => ({
    name,
    measure: () =>
      runScoped(
        Effect.gen(function* () {
          const pool = yield* WorkerPool.make({ name, concurrency: slots, capacity: tasks })
          const start = performance.now()
          for (let time = 0; time < times; time++) {
            yield* pool.pause
            const handles: Array<WorkerPool.TaskHandle<number, WorkerPool.PoolClosed>> = []
            for (let i = 0; i < tasks; i++) handles.push(yield* pool.submit(noOp.effect(i)))
            yield* pool.resume
            let sum = 0
            for (const handle of handles) sum += yield* handle.await
            verify(sum, tasks)
          }
          return cost(tasks * times, start)
        })
      )
  })
}

/** A task that fails unless the tasks of its key run in order. */
const inOrder = (keys: number): ((i: number) => number) => {
  const last = new Int32Array(keys).fill(-1)
  return (i) => {
    const before = last[i % keys] ?? -1
    if (before >= i) throw new Error(`task ${i} ran after task ${before} of the same key`)
    last[i % keys] = i
    return i
  }
}

/** Everything is queued while nothing may start, in turn for each of the keys, and then runs. */
export const keyed = {
  promise: (name: string, keys: number, tasks: number, open: () => KeyedPush): Contestant => ({
    name,
    measure: async () => {
      const task = inOrder(keys)
      const push = open()
      const start = performance.now()
      const results: Array<Promise<number>> = []
      for (let i = 0; i < tasks; i++) results.push(push(`key ${i % keys}`, async () => task(i)))
      verify(sumOf(await Promise.all(results)), tasks)
      return rate(tasks, start)
    }
  }),
  ours: (name: string, keys: number, tasks: number, withKey: boolean): Contestant => ({
    name,
    measure: () =>
      runScoped(
        Effect.gen(function* () {
          const task = inOrder(keys)
          const pool = yield* WorkerPool.make({ name, concurrency: slots, capacity: tasks })
          const start = performance.now()
          yield* pool.pause
          const handles: Array<WorkerPool.TaskHandle<number, WorkerPool.PoolClosed>> = []
          for (let i = 0; i < tasks; i++) {
            const work = Effect.sync(() => task(i))
            handles.push(yield* withKey ? pool.submit(work, { key: `key ${i % keys}` }) : pool.submit(work))
          }
          yield* pool.resume
          let sum = 0
          for (const handle of handles) sum += yield* handle.await
          verify(sum, tasks)
          return rate(tasks, start)
        })
      )
  })
}

const runScoped = (effect: Effect.Effect<Sample, unknown, Scope.Scope>): Promise<Sample> =>
  Effect.runPromise(Effect.scoped(effect))
