/**
 * Who publishes, and which process works: what envelopes say of their origin.
 */
import { hostname } from "node:os"
import * as Context from "effect/Context"

const host = hostname()

/** This process, as it stands in the history of a failed attempt. */
export const thisProcess = `${host}:${process.pid}`

/**
 * The CloudEvents `source` of what this program publishes: a URI reference such as `/shop/orders`. Default: the host.
 */
export const Source: Context.Reference<string> = Context.Reference<string>("millrace/Source", {
  defaultValue: () => `//${host}`
})
