/**
 * A consumer in the registry: one entry with the numbers and troubles of the consumer and the tasks of its pool, there from
 * before it subscribes until it has its report.
 */
import type { Entry, Registry } from "../../registry/Registry.ts"
import type { ConsumerAccounting, ConsumerReport } from "../ConsumerReport.ts"

/** What a consumer says of itself when it is asked. */
interface Speaker {
  readonly accounting: () => ConsumerAccounting
  readonly notes: () => ReadonlyArray<string>
}

export class Registered {
  private readonly registry: Registry
  private entry: Entry | undefined = undefined
  /** The consumer; `undefined` until it has subscribed. */
  consumer: Speaker | undefined = undefined

  constructor(registry: Registry) {
    this.registry = registry
  }

  /** Opens the entry: that of the pool, as the consumer would have it. */
  readonly open = (pool: Entry): void => {
    this.entry = {
      ...pool,
      counts: () => (this.consumer === undefined ? [] : Object.entries(this.consumer.accounting())),
      notes: () => [...pool.notes(), ...(this.consumer?.notes() ?? ["subscribing"])]
    }
    this.registry.open(this.entry)
  }

  /** Without a report, it has never begun. Nothing happens when it has left before. */
  close(report: ConsumerReport | undefined): void {
    if (this.entry !== undefined) this.registry.close(this.entry, report)
  }
}
