/** The other process of the conformance suite. */
import { Nsq } from "millrace/nsq"
import { conformanceWorker } from "millrace/testing"

conformanceWorker(Nsq.layer({ nsqd: [process.env.NSQD ?? ""] }))
