/**
 * Invoices, rendered by a pool.
 */
import { Effect, Schema } from "effect"
import { WorkerPool } from "millrace"
import type { Order } from "./Order.ts"
import { Settings } from "./Settings.ts"
import { Statuses } from "./Statuses.ts"

/**
 * Two at a time, eight waiting. One more is refused, so that a burst costs its sender a retry and not this process its
 * memory.
 */
export class Invoices extends WorkerPool.Service<Invoices>()("Invoices", {
  concurrency: 2,
  capacity: 8,
  onFull: "reject",
  shutdownDeadline: "10 seconds"
}) {}

class NoTaxRate extends Schema.TaggedError<NoTaxRate>()("NoTaxRate", { country: Schema.String }) {
  override get message(): string {
    return `No tax rate is known for ${this.country}.`
  }
}

const taxPercent: Readonly<Record<string, number>> = { AT: 20, DE: 19, FR: 20, IT: 22 }

const render = Effect.fnUntraced(function* (order: Order) {
  const { invoiceMillis } = yield* Settings
  const tax = taxPercent[order.country]
  yield* Effect.sleep(invoiceMillis)
  if (tax === undefined) return yield* new NoTaxRate({ country: order.country })
  const net = order.items.reduce((sum, item) => sum + item.quantity * item.cents, 0)
  return `${order.email} owes ${((net * (100 + tax)) / 10_000).toFixed(2)} with ${tax} % tax.`
})

/**
 * Accepts the work of an invoice and returns; the status of the order says how it goes on. Fails with `PoolFull` when too
 * many wait.
 */
export const queueInvoice = Effect.fnUntraced(function* (order: Order) {
  const statuses = yield* Statuses
  const work = Effect.gen(function* () {
    yield* statuses.set(order.id, { status: "rendering" })
    const invoice = yield* render(order)
    yield* statuses.set(order.id, { status: "invoiced", invoice })
  })
  const noInvoice = (reason: string) =>
    Effect.andThen(
      statuses.set(order.id, { status: "failed", reason }),
      Effect.logWarning(`Order ${order.id} has no invoice: ${reason}`)
    )
  yield* Invoices.fork(work, {
    name: `invoice of ${order.id}`,
    onFailure: (cause) =>
      Effect.failCause(cause).pipe(
        Effect.catch((error) => noInvoice(error.message)),
        // What is left is a bug, and goes on to be reported as one.
        Effect.tapCause(() => noInvoice("an internal error"))
      )
  })
})
