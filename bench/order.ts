/** The messages of the broker benchmarks: about 200 bytes of JSON, through one Schema on both sides. */
import { Schema } from "effect"

export const Order = Schema.Struct({
  orderId: Schema.String,
  customer: Schema.String,
  total: Schema.Number,
  lines: Schema.Array(Schema.Struct({ product: Schema.String, count: Schema.Number }))
})
export type Order = typeof Order.Type

export const orderOf = (n: number): Order => ({
  orderId: `order-${n}`,
  customer: `customer-${n % 1000}`,
  total: n / 100,
  lines: [
    { product: "a product of some name", count: n % 7 },
    { product: "another product", count: 1 }
  ]
})

const json = Schema.toCodecJson(Order)
export const encode = Schema.encodeUnknownSync(json)
export const decode = Schema.decodeUnknownSync(json)
