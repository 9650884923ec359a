/**
 * What a task has while it runs: its scope, its fiber, and the context that its submitter gave it. It is the scope itself,
 * so that a run is one object.
 */
import type * as Context from "effect/Context"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"

export interface Run extends Scope.Closeable {
  readonly context: Context.Context<never>
  fiber: Fiber.Fiber<unknown, unknown> | undefined
}

/** What is the same in every new scope. */
const emptyScope = Scope.makeUnsafe()

// The constant parts of a scope stand in the prototype, where a copy would have five fields of its own. TypeScript sees a
// constructor in classes only, and a class could not have a scope as its prototype.
export const Run = function (this: { -readonly [K in keyof Run]: Run[K] }, context: Context.Context<never>) {
  this.state = emptyScope.state
  this.context = context
  this.fiber = undefined
} as unknown as new (
  context: Context.Context<never>
) => Run
Run.prototype = emptyScope
