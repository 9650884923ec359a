/**
 * What a task has while it runs: its scope, its fiber, and the context that its submitter gave it. It is the scope itself,
 * and the effect that the task's fiber runs: it notes the fiber, so that the task is known as its owner from its first
 * operation on, and goes on with the task's effect. So a run is one object.
 */
import type * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type { AnyEffect } from "./Task.ts"

export interface Run extends Scope.Closeable, Effect.Effect<unknown, unknown> {
  readonly context: Context.Context<never>
  readonly effect: AnyEffect
  fiber: Fiber.Fiber<unknown, unknown> | undefined
}

/** What is the same in every new scope. */
const emptyScope = Scope.makeUnsafe()

// The constant parts of both stand in the prototype, where a copy of a scope would have five fields of its own. TypeScript
// sees a constructor in classes only, and a class could not have a scope as its prototype.
export const Run = function (
  this: { -readonly [K in keyof Run]: Run[K] },
  context: Context.Context<never>,
  effect: AnyEffect
) {
  this.state = emptyScope.state
  this.context = context
  this.effect = effect
  this.fiber = undefined
} as unknown as new (
  context: Context.Context<never>,
  effect: AnyEffect
) => Run
Run.prototype = Object.assign(
  Effectable.Prototype<Run>({
    label: "Task",
    evaluate(this: Run, fiber: Fiber.Fiber<unknown, unknown>): AnyEffect {
      this.fiber = fiber
      return this.effect
    }
  }),
  emptyScope
)
