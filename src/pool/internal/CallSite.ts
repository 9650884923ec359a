/**
 * The place in the program that submitted a task, for those who watch the registry.
 *
 * It has to be taken while the program's own function is on the stack, which is when it calls the library, not when the
 * effect that the call returned runs.
 */
import { isAnyWatched } from "../../registry/Registry.ts"

const own = new URL("../../", import.meta.url)
/** Frames that are nobody's call: the library's own, the runtime's, and those of Effect, where it calls the library. */
const passed = [own.href, own.pathname, "node:", "/node_modules/effect/"]

/** Set while one function of the library calls another on behalf of the program. */
let borrowed: string | undefined

/** The place of the call as `file:line:column`; `undefined` where nobody watches or the runtime gives no stack. */
export const callSite = (): string | undefined => {
  if (borrowed !== undefined) return borrowed
  if (!isAnyWatched()) return undefined
  const holder: { stack?: string } = {}
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 16
  Error.captureStackTrace?.(holder, callSite)
  Error.stackTraceLimit = limit
  for (const line of holder.stack?.split("\n").slice(1) ?? []) {
    if (passed.some((path) => line.includes(path))) continue
    const place = /\(?((?:file:\/\/)?[^\s()]+:\d+:\d+)\)?$/.exec(line)?.[1]
    if (place !== undefined) return place.replace(/^file:\/\//, "")
  }
  return undefined
}

/** Calls a verb later than the program called the library, with the place of the program's call. */
export const calledFrom = <A>(site: string | undefined, call: () => A): A => {
  const outer = borrowed
  borrowed = site
  try {
    return call()
  } finally {
    borrowed = outer
  }
}
