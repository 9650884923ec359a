import type { Bench } from "./harness.ts"
import { benches as kafka } from "./kafka.ts"
import { benches as nsq } from "./nsq.ts"
import { benches as pool } from "./pool.ts"
import { benches as rabbitmq } from "./rabbitmq.ts"
import { benches as sqlite } from "./sqlite.ts"

/** What `npm run bench -- NAME` runs. */
export const suites: Readonly<Record<string, ReadonlyArray<Bench>>> = { pool, sqlite, rabbitmq, kafka, nsq }
