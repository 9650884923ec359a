/**
 * Which effects need no fiber: those that are a success already, and those that are one synchronous function. Nothing can
 * wait, fork, use the context or be interrupted in them, so nobody can tell whether they ran on a fiber of their own, but
 * for `Fiber.getCurrent()` inside the function: that is the fiber that submitted it, whose services, references and span
 * are those of the task.
 *
 * Effect has no name for this, so it is learnt from a sample: where that does not show what is expected, everything gets a
 * fiber.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type { TaskHandle } from "../TaskHandle.ts"
import type { Engine } from "./Engine.ts"
import type { AnyEffect } from "./Task.ts"

const sample = () => 0
const sampleEffect: object = Effect.sync(sample)
const successPrototype: unknown = Object.getPrototypeOf(Exit.succeed(0))
const syncPrototype: unknown = Object.getPrototypeOf(sampleEffect)

/** The field in which `Effect.sync` keeps its function. */
const field = Object.entries(sampleEffect).find(([, value]) => value === sample)?.[0]

/** Whether the effect needs no fiber. */
export const isImmediate = (effect: AnyEffect): boolean => {
  // A program without types may hand over nothing at all; its task's fiber says what is wrong with that.
  if (effect === undefined || effect === null) return false
  const prototype: unknown = Object.getPrototypeOf(effect)
  return (prototype === syncPrototype && field !== undefined) || prototype === successPrototype
}

/** The value of an effect that needs no fiber. Throws what its function throws. */
export const evaluate = (effect: AnyEffect): unknown => {
  // `isImmediate` has seen that it is one of the two, and the sample that an `Effect.sync` has its function in this field.
  if (Object.getPrototypeOf(effect) === successPrototype) return (effect as Exit.Success<unknown>).value
  const work = (effect as unknown as Record<string, () => unknown>)[field as string] as () => unknown
  return work()
}

/** The handle of a task that has succeeded in place: half the size of a task, and a producer may keep a million. */
export class Done implements TaskHandle<unknown> {
  private readonly engine: Engine
  private readonly sequence: number
  readonly value: unknown

  constructor(engine: Engine, sequence: number, value: unknown) {
    this.engine = engine
    this.sequence = sequence
    this.value = value
  }

  get id(): string {
    return `${this.engine.name}#${this.sequence}`
  }

  get name(): string {
    return this.id
  }

  get await(): Effect.Effect<unknown> {
    return Exit.succeed(this.value)
  }

  get exit(): Effect.Effect<Exit.Exit<unknown>> {
    return Exit.succeed(Exit.succeed(this.value))
  }

  get poll(): Effect.Effect<Option.Option<Exit.Exit<unknown>>> {
    return Exit.succeed(Option.some(Exit.succeed(this.value)))
  }

  get cancel(): Effect.Effect<void> {
    return Exit.void
  }
}
