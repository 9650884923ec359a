/** How the broker in memory says no. */
import { errorsOf } from "../../../messaging/BrokerError.ts"

export const system = "memory"

export const { rejected } = errorsOf(system)
