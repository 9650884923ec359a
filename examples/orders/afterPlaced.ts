/**
 * What happens once an order is placed: all of it in this process, and lost with it.
 */
import { Effect } from "effect"
import { queueInvoice } from "./Invoices.ts"
import type { Order } from "./Order.ts"
import { track } from "./tracking.ts"

/** The invoice comes first: it can be refused, and what is refused is not tracked. */
export const afterPlaced = (order: Order) => Effect.andThen(queueInvoice(order), track(order))
