/** Which headers a publisher may set by itself. */

const reserved = /^(ce[_:-]|millrace|cloudevents)/i
const traceContext = new Set(["traceparent", "tracestate", "content-type"])

/** What is wrong with free headers, as a sentence; `undefined` where nothing is. */
export const invalidHeader = (headers: Readonly<Record<string, string>>): string | undefined => {
  for (const [name, value] of Object.entries(headers)) {
    if (name === "") return "a header must have a name"
    if (reserved.test(name) || traceContext.has(name.toLowerCase())) {
      return `header "${name}" is reserved for the envelope; choose another name`
    }
    // JavaScript callers come here too.
    if (typeof value !== "string") return `header "${name}" must be a string, got ${typeof value}`
  }
  return undefined
}
