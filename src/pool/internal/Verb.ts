/**
 * The effects that `submit`, `run` and `fork` return.
 *
 * A class of its own for each, so that a submission allocates one object: with `Effect.withFiber` and a closure it is three,
 * which is a tenth of the time that a task takes.
 */
import type * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import type * as Fiber from "effect/Fiber"
import { callSite } from "./CallSite.ts"
import type { Engine } from "./Engine.ts"
import type { TaskOptions } from "./Extras.ts"
import { extras } from "./Extras.ts"
import type { AnyEffect } from "./Task.ts"

type Name = "submit" | "run" | "fork"

interface Verb extends Effect.Effect<unknown, unknown> {
  readonly engine: Engine
  readonly work: AnyEffect
  readonly options: TaskOptions | undefined
  readonly site: string | undefined
}

const makeVerb = (name: Name) => {
  function Verb(
    this: { -readonly [K in keyof Verb]: Verb[K] },
    engine: Engine,
    work: AnyEffect,
    options: TaskOptions | undefined
  ) {
    this.engine = engine
    this.work = work
    this.options = options
    this.site = callSite()
  }
  Verb.prototype = Effectable.Prototype<Verb>({
    label: name,
    evaluate(this: Verb, fiber: Fiber.Fiber<unknown, unknown>): AnyEffect {
      return this.engine[name](fiber, this.work, extras(this.engine, name, this.options, this.site))
    }
  })
  // A function with a prototype is a constructor, which TypeScript sees for classes only; a class could not take over the
  // prototype of Effect's own primitives.
  return Verb as unknown as new (
    engine: Engine,
    work: AnyEffect,
    options: TaskOptions | undefined
  ) => Verb
}

export const Submit = makeVerb("submit")
export const Run = makeVerb("run")
export const Fork = makeVerb("fork")
