/** The other process of the conformance suite. */
import { RabbitMq } from "millrace/rabbitmq"
import { conformanceWorker } from "millrace/testing"

const { ORDER, RABBITMQ_URL: url = "" } = process.env

conformanceWorker(ORDER === "yes" ? RabbitMq.layer({ url, order: true }) : RabbitMq.layer({ url }))
