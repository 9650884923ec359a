/**
 * Placing an order.
 */
import { randomUUID } from "node:crypto"
import { Effect } from "effect"
import { afterPlaced } from "./afterPlaced.ts"
import type { NewOrder, Order } from "./Order.ts"
import { Statuses } from "./Statuses.ts"

/** Accepts the order and returns it with its id; or refuses it with `PoolFull`, and nothing of it is left. */
export const placeOrder = Effect.fnUntraced(
  function* (newOrder: NewOrder) {
    const statuses = yield* Statuses
    const order: Order = { ...newOrder, id: randomUUID() }
    // Set before the work, which may begin at once and set the next one.
    yield* statuses.set(order.id, { status: "queued" })
    yield* afterPlaced(order).pipe(Effect.onError(() => statuses.remove(order.id)))
    return order
  },
  // A client that hangs up interrupts its request; an order is placed whole or not at all.
  Effect.uninterruptible
)
