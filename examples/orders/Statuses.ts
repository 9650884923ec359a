/**
 * How far each order has come, in memory: it is gone with the process, and never forgets while that runs.
 */
import { Context, Effect, Layer, Option } from "effect"
import type { Status } from "./Order.ts"

export class Statuses extends Context.Service<
  Statuses,
  {
    readonly get: (id: string) => Effect.Effect<Option.Option<Status>>
    readonly set: (id: string, status: Status) => Effect.Effect<void>
    readonly remove: (id: string) => Effect.Effect<void>
  }
>()("orders/Statuses") {
  static readonly layer = Layer.sync(Statuses, () => {
    const statuses = new Map<string, Status>()
    return Statuses.of({
      get: (id) => Effect.sync(() => Option.fromUndefinedOr(statuses.get(id))),
      set: (id, status) => Effect.sync(() => void statuses.set(id, status)),
      remove: (id) => Effect.sync(() => void statuses.delete(id))
    })
  })
}
