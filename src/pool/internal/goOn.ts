/**
 * Goes on with a value: what an effect of ours returns, as the last thing that its evaluation does, when it has succeeded.
 *
 * An `Exit` would do, and costs an object and one more turn of the fiber's loop: a tenth of the time that a small task takes.
 * Effect's own effects hand their value straight to what comes next with a method of the fiber that its types do not show;
 * where there is none, it is an `Exit`.
 */
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type { AnyEffect } from "./Task.ts"

interface HandsOn {
  readonly succeedWith?: (value: unknown) => AnyEffect
}

export const goOn = (fiber: Fiber.Fiber<unknown, unknown> & HandsOn, value: unknown): AnyEffect =>
  fiber.succeedWith === undefined ? Exit.succeed(value) : fiber.succeedWith(value)
