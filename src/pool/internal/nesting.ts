/**
 * How deep starts and resumed waiters stand inside each other on the JavaScript stack, over all pools: a task that starts
 * inside a `submit` may submit, and a waiter that goes on may end what another waits for.
 */
const deepest = 16
let depth = 0

/** Whether the next must wait for the stack to unwind. */
export const isTooDeep = (): boolean => depth >= deepest

export const enter = (): void => {
  depth++
}

export const leave = (): void => {
  depth--
}
