/**
 * The benchmarks of Kafka: the driver and the consumer beside loops of the client itself with the same settings, the same
 * headers and the same Schema. The server is the one of `npm run services -- up kafka`; the topics are of four partitions.
 */
import type { Bench } from "./harness.ts"
import { busy, busyByPartition, consume, consumeByClient, publish, publishByClient } from "./kafkaPeers.ts"

export const benches: ReadonlyArray<Bench> = [
  {
    name: "publish",
    about: "50,000 messages of 200 bytes in batches of 100, 8 of them open, acknowledged by all replicas, idempotent",
    units: { "messages/s": "more" },
    ours: publish,
    peers: [publishByClient]
  },
  {
    name: "consume",
    about: "50,000 messages read, decoded by a Schema, handled and committed in the background",
    units: { "messages/s": "more" },
    ours: consume,
    peers: [consumeByClient]
  },
  {
    name: "busy",
    about: "handlers of 5 ms on four partitions, in the order of 1,000 keys: most that run at once, and the rate",
    units: { handlers: "more", "messages/s": "more" },
    ours: busy,
    peers: [busyByPartition]
  }
]
