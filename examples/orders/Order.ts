/**
 * An order, as it comes in and as it is known here.
 */
import { Schema } from "effect"

/** What can be ordered, and the price of one in cents, without tax. */
export const prices = { kettle: 3490, lamp: 4900, chair: 12900 } as const

/** The body of `POST /orders`. */
export const NewOrder = Schema.Struct({
  email: Schema.String.check(Schema.isPattern(/^[^\s@]+@[^\s@]+$/, { message: "Expected an e-mail address" })),
  phone: Schema.String.check(
    Schema.isPattern(/^\+[1-9]\d{6,14}$/, { message: "Expected a phone number such as +491701234560" })
  ),
  country: Schema.String.check(Schema.isPattern(/^[A-Z]{2}$/, { message: "Expected a country code such as DE" })),
  product: Schema.Literals(["kettle", "lamp", "chair"]),
  quantity: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 }))
})
export type NewOrder = typeof NewOrder.Type

export const Order = Schema.Struct({ id: Schema.String, ...NewOrder.fields })
export type Order = typeof Order.Type
