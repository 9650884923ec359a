/** How the broker in memory says no. */
import { BrokerError, Rejected } from "../../../messaging/BrokerError.ts"

export const system = "memory"

export const rejected = (
  about: { readonly operation: string; readonly topic: string; readonly ids?: ReadonlyArray<string> },
  code: Rejected["code"],
  detail: string
): BrokerError => new BrokerError({ broker: system, ...about, reason: new Rejected({ code, detail }) })
