/**
 * The message that an order was placed: what everything that happens later begins with.
 */
import { Topic } from "millrace"
import { Order } from "./Order.ts"

export const OrderPlaced = Topic.make("orders.placed", {
  schema: Order,
  version: 1,
  /** Orders of one product are kept in order, where a consumer asks for it. */
  key: (order) => order.product,
  /** Each gets every message, also those from before its consumer was started for the first time. */
  groups: ["sms", "stock"]
})

/** How long it takes until others get what a killed process was at. One that lives renews its leases. */
export const afterKill = "5 seconds"
