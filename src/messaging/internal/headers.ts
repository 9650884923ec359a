/** What a publisher may say of a message by itself. JavaScript callers come here too. */
import { format } from "effect/Formatter"

const reserved = /^(ce[_:-]|millrace|cloudevents)/i
const traceContext = new Set(["traceparent", "tracestate", "content-type"])

/** What is wrong with free headers, as a sentence; `undefined` where nothing is. */
export const invalidHeader = (headers: Readonly<Record<string, string>>): string | undefined => {
  for (const name in headers) {
    const value: unknown = headers[name]
    if (name === "") return "a header must have a name"
    if (reserved.test(name) || traceContext.has(name.toLowerCase())) {
      return `header "${name}" is reserved for the envelope; choose another name`
    }
    if (typeof value !== "string") return `header "${name}" must be a string, got ${typeof value}`
  }
  return undefined
}

/** What is wrong with the names of a message, as a sentence; `undefined` where nothing is. */
export const invalidName = (id: unknown, key: unknown): string | undefined => {
  if (typeof id !== "string" || id === "") return `its id must be a string that is not empty, got ${format(id)}`
  return key === undefined || typeof key === "string" ? undefined : `its key must be a string, got ${typeof key}`
}
