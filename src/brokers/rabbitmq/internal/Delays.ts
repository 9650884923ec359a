/**
 * Which queue a delayed message waits in.
 *
 * RabbitMQ looks at the head of a queue only, so a message with a short time to live waits behind one with a long one. Each
 * queue is therefore for a narrow range of delays, up to the one that it is named after; the message has its exact delay as
 * its own time to live. So it comes at its time, or at the latest at the end of its range when longer ones wait before it.
 */

/** Ten ranges a decade, the steps of the Renard series R10. */
const steps = [1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.4, 8]

/** 46 days; the server's timers end at 49. */
export const longestDelay = 4_000_000_000

/** The ends of all ranges, from 100 milliseconds on. */
export const ranges: ReadonlyArray<number> = [2, 3, 4, 5, 6, 7, 8, 9]
  .flatMap((decade) => steps.map((step) => Math.round(step * 10 ** decade)))
  .filter((range) => range <= longestDelay)

/** The end of the range of a delay. */
export const rangeOf = (delay: number): number => ranges.find((range) => range >= delay) ?? longestDelay
