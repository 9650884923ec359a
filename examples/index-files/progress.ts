/**
 * One line that says how far the program is.
 */
import { Console, Effect, Schedule, Stdio, Terminal } from "effect"

/** Back to the first column, and everything right of it erased. */
const eraseLine = "\r\x1b[K"

/**
 * Shows `line` while the effect runs. A terminal redraws it in place; a file or a pipe gets a new line every two
 * seconds.
 */
export const withProgress =
  (line: Effect.Effect<string>) =>
  <A, E, R>(self: Effect.Effect<A, E, R>) =>
    Effect.gen(function* () {
      const { stdoutIsTerminal } = yield* Stdio.Stdio
      const terminal = yield* Terminal.Terminal
      if (!(yield* stdoutIsTerminal)) {
        const print = Effect.flatMap(line, (text) => Console.log(text))
        yield* Effect.forkScoped(Effect.schedule(print, Schedule.spaced("2 seconds")))
        return yield* self
      }
      // Some terminals do not say how wide they are.
      const width = (yield* terminal.columns) || 80
      const draw = Effect.flatMap(line, (text) => terminal.display(eraseLine + text.slice(0, width - 1)))
      yield* Effect.addFinalizer(() => Effect.ignore(terminal.display(eraseLine)))
      yield* Effect.forkScoped(Effect.repeat(draw, Schedule.spaced("100 millis")))
      return yield* self
    }).pipe(Effect.scoped)
