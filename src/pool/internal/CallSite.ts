/**
 * The place in the program that called the library: the first frame of the stack that is not the library's own.
 */
const own = new URL("../../", import.meta.url).href
const ownPath = own.replace(/^file:\/\//, "")

/** As `file:line:column`; `undefined` where the runtime gives no stack. */
export const callSite = (): string | undefined => {
  const holder: { stack?: string } = {}
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 16
  Error.captureStackTrace?.(holder, callSite)
  Error.stackTraceLimit = limit
  for (const line of holder.stack?.split("\n").slice(1) ?? []) {
    if (line.includes(own) || line.includes(ownPath)) continue
    const place = /\(?((?:file:\/\/)?[^\s()]+:\d+:\d+)\)?$/.exec(line)?.[1]
    if (place !== undefined) return place.replace(/^file:\/\//, "")
  }
  return undefined
}
