/** The other process of the conformance suite. */
import { RabbitMq } from "millrace/rabbitmq"
import { conformanceWorker } from "millrace/testing"

conformanceWorker(RabbitMq.layer({ url: process.env.RABBITMQ_URL ?? "" }))
