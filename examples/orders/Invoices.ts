/**
 * Invoices, rendered by a pool: somebody waits for each, so nothing is lost when the process dies (who still wants it asks
 * again), but a burst must not eat the machine.
 */
import { Effect, Schema } from "effect"
import { WorkerPool } from "millrace"
import type { Order } from "./Order.ts"
import { prices } from "./Order.ts"
import { Settings } from "./Settings.ts"

/** Two at a time, eight waiting. One more is refused, so that a burst costs its sender a retry and not this process its memory. */
export class Invoices extends WorkerPool.Service<Invoices>()("Invoices", {
  concurrency: 2,
  capacity: 8,
  onFull: "reject",
  shutdownDeadline: "10 seconds"
}) {}

export class NoTaxRate extends Schema.TaggedError<NoTaxRate>()("NoTaxRate", { country: Schema.String }) {
  override get message(): string {
    return `No tax rate is known for ${this.country}.`
  }
}

const taxPercent: Readonly<Record<string, number>> = { AT: 20, DE: 19, FR: 20, IT: 22 }

const render = Effect.fnUntraced(function* ({ country, email, product, quantity }: Order) {
  const { invoiceMillis } = yield* Settings
  const tax = taxPercent[country]
  yield* Effect.sleep(invoiceMillis)
  if (tax === undefined) return yield* new NoTaxRate({ country })
  const net = quantity * prices[product]
  return `${email} owes ${((net * (100 + tax)) / 10_000).toFixed(2)} with ${tax} % tax.`
})

/** Fails with `PoolFull` when too many wait. Who hangs up cancels the work. */
export const invoiceOf = (order: Order) => Invoices.run(render(order), { name: `invoice of ${order.id}` })
