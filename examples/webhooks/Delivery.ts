/**
 * The message that an event is to be delivered to one subscriber.
 */
import { Schema } from "effect"
import { Topic } from "millrace"

export const Delivery = Topic.make("webhooks.delivery", {
  schema: Schema.Struct({
    subscriber: Schema.String,
    event: Schema.String,
    /** What is sent, to the byte: the signature is about it. */
    body: Schema.String
  }),
  version: 1,
  key: ({ subscriber }) => subscriber,
  groups: ["deliveries"]
})
export type Delivery = Parameters<typeof Delivery.publish>[0]
