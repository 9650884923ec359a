/** What goes wrong with Kafka, as errors that a program can act on. */
import { protocolErrors, protocolErrorsCodesById } from "@platformatic/kafka"
import type { About, Rejected } from "../../../messaging/BrokerError.ts"
import { BrokerError, errorsOf } from "../../../messaging/BrokerError.ts"

export type { About }

export const system = "kafka"

export const { rejected, unavailable } = errorsOf(system)

/** An answer of the server that says no, by the name that the protocol gives it. */
export class Refusal extends Error {
  readonly code: string
  constructor(code: string, text: string) {
    super(text)
    this.code = code
  }
}

/** The refusal that stands as a number in an answer. */
export const refusalOf = (code: number, text: string | null): Refusal => {
  const name = protocolErrorsCodesById[code] ?? "UNKNOWN_SERVER_ERROR"
  return new Refusal(name, text ?? protocolErrors[name]?.message ?? name)
}

/** The error and all that it comes from: the client wraps what went wrong, one server's beside another's. */
const chainOf = (error: unknown): ReadonlyArray<object> => {
  if (typeof error !== "object" || error === null) return []
  const inner = "errors" in error && Array.isArray(error.errors) ? error.errors.flatMap(chainOf) : []
  return [error, ...inner, ...("cause" in error ? chainOf(error.cause) : [])]
}

/** The names that the protocol gives to what is wrong; empty where no server has answered. */
export const codesOf = (error: unknown): ReadonlyArray<string> =>
  chainOf(error).flatMap((one) => {
    if (one instanceof Refusal) return [one.code]
    return "apiId" in one && typeof one.apiId === "string" ? [one.apiId] : []
  })

export const hasCode = (error: unknown, ...codes: ReadonlyArray<string>): boolean =>
  codesOf(error).some((code) => codes.includes(code))

/** What an error says, the innermost first. */
export const textOf = (error: unknown): string => {
  if (!(error instanceof Error)) return String(error)
  const inner: unknown = "errors" in error && Array.isArray(error.errors) ? error.errors[0] : undefined
  if (inner !== undefined) return textOf(inner)
  const said =
    "serverErrorMessage" in error && typeof error.serverErrorMessage === "string" ? error.serverErrorMessage : ""
  const cause = error.cause instanceof Error ? ` (${textOf(error.cause)})` : ""
  return said === "" ? `${error.message || error.name}${cause}` : said
}

const noes: ReadonlyArray<readonly [codes: RegExp, code: Rejected["code"], advice: string]> = [
  [/_AUTHORIZATION_FAILED$/, "Denied", "check what the user may do"],
  [/^SASL_AUTHENTICATION_FAILED$/, "Denied", "check the user and password, or the token"],
  [/^UNSUPPORTED_SASL_MECHANISM$/, "Denied", "choose a mechanism for which the server is set up"],
  [/^INVALID_TOPIC_EXCEPTION$/, "InvalidName", "choose another name"],
  [/^(MESSAGE_TOO_LARGE|RECORD_LIST_TOO_LARGE)$/, "TooLarge", "put the payload elsewhere and send where it is"],
  [/^UNKNOWN_TOPIC_OR_PARTITION$/, "NoGroup", "create the topic, or give the layer createTopics"],
  [/^(UNSUPPORTED_VERSION|UNSUPPORTED_ASSIGNOR)$/, "Incompatible", "Millrace needs Kafka 4.0 or newer"],
  [
    /^INCONSISTENT_GROUP_PROTOCOL$/,
    "Incompatible",
    "clients of another kind are members of the group; stop them first"
  ],
  [/^GROUP_MAX_SIZE_REACHED$/, "Full", "the group has as many members as the server allows"],
  [/^NON_EMPTY_GROUP$/, "Refused", "stop its consumers first"],
  [
    /^(INVALID_REPLICATION_FACTOR|INVALID_PARTITIONS|INVALID_CONFIG|POLICY_VIOLATION|INVALID_RECORD|INVALID_REQUEST)$/,
    "Refused",
    "check the options of the layer"
  ]
]

/** Whether the server has said no, so that nothing was done. */
export const isRefusal = (error: unknown): boolean =>
  codesOf(error).some((code) => noes.some(([pattern]) => pattern.test(code)))

/** The error of an operation that the server has refused, or that has not reached it. */
export const errorOf = (about: About, error: unknown): BrokerError => {
  if (error instanceof BrokerError) return error
  const text = textOf(error)
  for (const code of codesOf(error)) {
    const no = noes.find(([pattern]) => pattern.test(code))
    if (no !== undefined) return rejected(about, no[1], `${text.replace(/\.$/, "")}; ${no[2]}`, error)
  }
  const isDenied = chainOf(error).some((one) => "code" in one && one.code === "PLT_KFK_AUTHENTICATION")
  return isDenied
    ? rejected(about, "Denied", `${text}; check the user and password, or the token`, error)
    : unavailable(about, text, error)
}
