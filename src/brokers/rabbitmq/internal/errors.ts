/** What goes wrong with RabbitMQ, as errors that a program can act on. */
import type { About, BrokerError } from "../../../messaging/BrokerError.ts"
import { errorsOf } from "../../../messaging/BrokerError.ts"

export type { About }

export const system = "rabbitmq"

export const { rejected, unavailable } = errorsOf(system)

/** The reply code of the server, from errors of channels and from those of the handshake, which have it in their text alone. */
export const replyCode = (error: unknown): number | undefined => {
  if (typeof error !== "object" || error === null) return undefined
  if ("code" in error && typeof error.code === "number") return error.code
  const match = error instanceof Error ? /: (\d{3}) \([A-Z-]+\)/.exec(error.message) : null
  return match === null ? undefined : Number(match[1])
}

/** What an error says, without the frame that the client puts around the server's own words. */
export const textOf = (error: unknown): string => {
  const text = error instanceof Error ? error.message || error.name : String(error)
  return /with message "(?:[A-Z_]+ - )?(.*)"$/s.exec(text)?.[1] ?? text
}

/** The error of an operation that is not a publish: for these the answer of the server says whether it happened. */
export const errorOf = (about: About, error: unknown): BrokerError => {
  const text = textOf(error)
  switch (replyCode(error)) {
    case 403:
    case 530:
      return rejected(
        about,
        "Denied",
        `${text.replace(/\.$/, "")}; check the user, its permissions and the virtual host`,
        error
      )
    case 404:
      return rejected(about, "NoGroup", text, error)
    case 405:
      return rejected(about, "Refused", `${text}; another connection uses it exclusively`, error)
    case 406:
      return text.includes("inequivalent arg")
        ? rejected(
            about,
            "Incompatible",
            `${text}. It was declared otherwise before: delete it, or use the options that it was declared with`,
            error
          )
        : rejected(about, "Refused", text, error)
    default:
      return unavailable(about, text, error)
  }
}
