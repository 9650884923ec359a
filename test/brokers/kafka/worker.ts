/** The other process of the conformance suite. */
import { Kafka } from "millrace/kafka"
import { conformanceWorker } from "millrace/testing"

const brokers = [process.env.KAFKA_BROKER ?? ""]
conformanceWorker(Kafka.layer({ brokers, createTopics: { partitions: 4, replication: 1 } }))
