/** `Effect.forEach` in order, for effects that are done already more often than not: those take no step of the fiber. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/** Call it inside an effect: what `f` throws is thrown. */
export const forEachEager = <A, B, E>(
  values: Iterable<A>,
  f: (value: A) => Effect.Effect<B, E>
): Effect.Effect<ReadonlyArray<B>, E> => {
  const results: Array<B> = []
  const iterator = values[Symbol.iterator]()
  const goOn = (): Effect.Effect<ReadonlyArray<B>, E> => {
    let turns = 0
    for (let next = iterator.next(); next.done !== true; next = iterator.next()) {
      const effect = f(next.value)
      if (!Exit.isExit(effect)) {
        return Effect.flatMap(effect, (result) => {
          results.push(result)
          return goOn()
        })
      }
      // The exit is that of the effect, so it has its types.
      const exit = effect as Exit.Exit<B, E>
      if (Exit.isFailure(exit)) return Effect.failCause(exit.cause)
      results.push(exit.value)
      // Others have a turn now and then.
      if (++turns === 1000) return Effect.flatMap(Effect.yieldNow, goOn)
    }
    return Effect.succeed(results)
  }
  return goOn()
}
