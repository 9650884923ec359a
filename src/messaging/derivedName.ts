/**
 * Names at a broker that are made of others: the queue of a group, its dead letters, its retries.
 *
 * They are readable, fit into what the broker allows, and never ambiguous: topic `a.b` with group `c` is not topic `a` with
 * group `b.c`. For this the parts are joined by a separator that no part may contain ({@link nameProblem} says so), and what
 * would be too long ends in a hash of the whole instead.
 */
import { createHash } from "node:crypto"

/** What a broker allows in names. */
export interface NameRules {
  /** Joins the parts of a name; no part may contain it, nor begin or end with a piece of it. */
  readonly separator: string
  /** Longest name in bytes of UTF-8. */
  readonly longest: number
  /** What a name may be made of, as a pattern for the whole of it and in words. Default: all but control characters. */
  readonly allowed?: { readonly pattern: RegExp; readonly words: string } | undefined
  /** Names that the broker keeps to itself, such as those that begin with `amq.`. */
  readonly reserved?: RegExp | undefined
}

/** Bytes of the hash in hexadecimal, with the separators before it. */
const hashLength = 32

const text = new TextEncoder()
const bytesOf = (name: string): number => text.encode(name).byteLength

// biome-ignore lint/suspicious/noControlCharactersInRegex: it is what is looked for
const control = /[\u0000-\u001f\u007f]|\p{Surrogate}/u

/** Names that were found to be valid, not to look at each letter again at every publish. */
const valid = { topic: new WeakMap<NameRules, Set<string>>(), group: new WeakMap<NameRules, Set<string>>() }
const mostValid = 1000

/** What is wrong with the name of a topic or group, as a sentence; `undefined` where nothing is. */
export const nameProblem = (rules: NameRules, what: "topic" | "group", name: string): string | undefined => {
  const known = valid[what].get(rules)
  if (known?.has(name)) return undefined
  const problem = look(rules, what, name)
  if (problem !== undefined) return problem
  if (known === undefined || known.size >= mostValid) valid[what].set(rules, new Set([name]))
  else known.add(name)
  return undefined
}

const look = (rules: NameRules, what: "topic" | "group", name: string): string | undefined => {
  const { allowed, longest, reserved, separator } = rules
  const quoted = JSON.stringify(name)
  if (name === "") return `the name of a ${what} must not be empty`
  if (allowed !== undefined && !allowed.pattern.test(name)) return `${what} ${quoted} may only contain ${allowed.words}`
  if (control.test(name)) return `${what} ${quoted} contains a control character or half of a character`
  if (name.includes(separator)) {
    return `${what} ${quoted} contains ${JSON.stringify(separator)}, which stands between the parts of derived names`
  }
  const edge = separator[0] ?? ""
  if (separator.length > 1 && (name.startsWith(edge) || name.endsWith(edge))) {
    return `${what} ${quoted} must not begin or end with ${JSON.stringify(edge)}`
  }
  if (reserved?.test(name)) return `${what} ${quoted} is a name that the broker keeps to itself`
  // Derived names are hashed where they are too long; the name of a topic stands at the broker as it is.
  if (what === "topic" && bytesOf(name) > longest) return `${what} ${quoted} is longer than ${longest} bytes`
  return undefined
}

/**
 * The name that is made of the parts, different for different parts.
 *
 * The parts must have no {@link nameProblem}. A name over the limit keeps its beginning and ends in two separators and a hash.
 */
export const derivedName = ({ longest, separator }: NameRules, parts: ReadonlyArray<string>): string => {
  const name = parts.join(separator)
  if (bytesOf(name) <= longest) return name
  const ending = `${separator}${separator}${createHash("sha256").update(name).digest("hex").slice(0, hashLength)}`
  let beginning = ""
  let left = longest - bytesOf(ending)
  for (const character of name) {
    left -= bytesOf(character)
    if (left < 0) break
    beginning += character
  }
  return `${beginning}${ending}`
}
