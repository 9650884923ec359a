/**
 * An order, as it comes in and as it is known here.
 */
import { Schema } from "effect"

const Item = Schema.Struct({
  name: Schema.NonEmptyString,
  quantity: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 })),
  /** Price of one, without tax. */
  cents: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10_000_000 }))
})

/** The body of `POST /orders`. */
export const NewOrder = Schema.Struct({
  email: Schema.String.check(Schema.isPattern(/^[^\s@]+@[^\s@]+$/, { message: "Expected an e-mail address" })),
  country: Schema.String.check(Schema.isPattern(/^[A-Z]{2}$/, { message: "Expected a country code such as DE" })),
  items: Schema.Array(Item).check(
    Schema.isMinLength(1, { message: "Expected at least one item" }),
    Schema.isMaxLength(100, { message: "Expected at most 100 items" })
  )
})
export type NewOrder = typeof NewOrder.Type

export interface Order extends NewOrder {
  readonly id: string
}

/** How far an order has come. */
export type Status =
  | { readonly status: "queued" }
  | { readonly status: "rendering" }
  | { readonly status: "invoiced"; readonly invoice: string }
  | { readonly status: "failed"; readonly reason: string }
