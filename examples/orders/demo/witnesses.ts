/**
 * What is there in the end, by witnesses that do not depend on each other: what the customers were told, what the gateway has
 * written into its own log, and the tables.
 */
import { readFileSync } from "node:fs"
import { DatabaseSync } from "node:sqlite"
import type { Order } from "../Order.ts"
import { initialStock } from "../tables.ts"

export interface Booking {
  readonly id: string
  readonly product: Order["product"]
  readonly reserved: number
}

/** The tables, each in the order in which it was written. */
export const readTables = (file: string) => {
  const db = new DatabaseSync(file, { readOnly: true })
  // What the columns are is said in `tables.ts`.
  // Each query names the columns of its `A`.
  const rows = <A>(query: string) => db.prepare(query).all() as unknown as ReadonlyArray<A>
  try {
    return {
      orders: rows<{ readonly details: string }>("SELECT details FROM orders ORDER BY rowid").map(
        ({ details }) => JSON.parse(details) as Order
      ),
      bookings: rows<Booking>("SELECT order_id AS id, product, reserved FROM bookings ORDER BY rowid"),
      stock: rows<{ readonly product: string; readonly available: number }>("SELECT product, available FROM stock")
    }
  } finally {
    db.close()
  }
}

/** The log of the gateway: the ids of what it has sent, each time, and of what it was asked to send once more. */
export const readSmsLog = (file: string) => {
  const lines = readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    // Written by `gateway.ts`.
    .map((line) => JSON.parse(line) as { readonly key?: string; readonly repeated?: string })
  return { sent: lines.flatMap(({ key }) => key ?? []), repeated: lines.flatMap(({ repeated }) => repeated ?? []) }
}

/** What the bookings have to be: one for each order, those of a product in the order in which they were placed. */
const expectedBookings = (orders: ReadonlyArray<Order>) => {
  const stock: Record<string, number> = { ...initialStock }
  const bookings = orders.map(({ id, product, quantity }): Booking => {
    const available = stock[product] ?? 0
    const reserved = available >= quantity
    if (reserved) stock[product] = available - quantity
    return { id, product, reserved: reserved ? 1 : 0 }
  })
  return { bookings, stock }
}

const repeats = (ids: ReadonlyArray<string>): number => ids.length - new Set(ids).size

export interface Evidence {
  /** Ids of the orders that were answered with 202. */
  readonly accepted: ReadonlySet<string>
  /** Ids of the dead letters of SMS. */
  readonly dead: ReadonlyArray<string>
  readonly tables: ReturnType<typeof readTables>
  readonly sms: ReturnType<typeof readSmsLog>
}

export const judge = ({ accepted, dead, sms, tables }: Evidence) => {
  const { bookings, orders } = tables
  const booked = new Set(bookings.map(({ id }) => id))
  const reached = new Set([...sms.sent, ...dead])
  const written = new Set(orders.map(({ id }) => id))
  const expected = expectedBookings(orders)
  const inOrder = (list: ReadonlyArray<Booking>, product: string) =>
    list.filter((one) => one.product === product).map(({ id, reserved }) => `${id} ${reserved}`)
  const all = new Set([...accepted, ...written])
  const without = (has: (id: string) => boolean) => [...all].filter((id) => !has(id)).length
  return {
    accepted: accepted.size,
    unanswered: all.size - accepted.size,
    sent: new Set(sms.sent).size,
    sentTwice: repeats(sms.sent),
    askedTwice: sms.repeated.length,
    dead: new Set(dead).size,
    booked: booked.size,
    bookedTwice: bookings.length - booked.size,
    /** Orders that somebody was promised and that are not in the table, or without SMS or booking. */
    lost: without((id) => written.has(id) && reached.has(id) && booked.has(id)),
    /** Products whose bookings are not those that the orders in their order make, or whose stock is not what is left. */
    wrong: Object.entries(expected.stock).filter(
      ([product, available]) =>
        tables.stock.find((one) => one.product === product)?.available !== available ||
        inOrder(bookings, product).join() !== inOrder(expected.bookings, product).join()
    ).length
  }
}
