/** What goes wrong with NSQ, as errors that a program can act on. */
import type { About, BrokerError, Rejected } from "../../../messaging/BrokerError.ts"
import { errorsOf } from "../../../messaging/BrokerError.ts"
import type { ConnectionLost, ServerError } from "../protocol/errors.ts"

export type { About }

export const system = "nsq"

export const { rejected, unavailable } = errorsOf(system)

const codes: Readonly<Record<string, Rejected["code"]>> = {
  E_BAD_TOPIC: "InvalidName",
  E_BAD_CHANNEL: "InvalidName",
  E_BAD_MESSAGE: "TooLarge",
  E_BAD_BODY: "Refused",
  E_AUTH_FIRST: "Denied",
  E_AUTH_FAILED: "Denied",
  E_AUTH_DISABLED: "Denied",
  E_UNAUTHORIZED: "Denied",
  E_TLS: "Refused",
  E_INVALID: "Refused"
}

/** The error of what an nsqd refused, or of a connection that was lost. What it could not do may work another time. */
export const errorOf = (about: About, error: ServerError | ConnectionLost, detail = error.message): BrokerError => {
  if (error._tag === "ConnectionLost") return unavailable(about, detail, error)
  const code = codes[error.code]
  return code === undefined ? unavailable(about, detail, error) : rejected(about, code, detail, error)
}
