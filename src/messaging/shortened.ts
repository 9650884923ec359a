/**
 * Envelopes with less in them, for a broker that takes no more. A message has found room as it was published; what it has
 * gathered since, or what another program has put into it, must not keep it where it is for ever.
 */
import type { BrokerError } from "./BrokerError.ts"
import type { Envelope } from "./Envelope.ts"

/** Whether less of a message may find room. */
export const isTooLarge = ({ reason }: BrokerError): boolean => reason._tag === "Rejected" && reason.code === "TooLarge"

/** To be tried again: since when it fails is kept, for schedules that look at it. */
export const withoutAttempts = (envelope: Envelope): Envelope => ({
  ...envelope,
  history: envelope.history && { firstFailedAt: envelope.history.firstFailedAt, attempts: [] }
})

/** A letter with as little as can be said: when, where, why. */
export const terse = (envelope: Envelope): Envelope => ({
  ...envelope,
  history: undefined,
  death: envelope.death && { ...envelope.death, cause: shorten(envelope.death.cause, 200) }
})

/** A letter with nothing in it that may be of any length: it says so, and the payload is there. */
export const bare = (envelope: Envelope): Envelope => ({
  ...terse(envelope),
  id: shorten(envelope.id, most),
  topic: shorten(envelope.topic, most),
  source: shorten(envelope.source, most),
  key: envelope.key === undefined ? undefined : shorten(envelope.key, most),
  contentType: shorten(envelope.contentType, most),
  correlationId: undefined,
  traceparent: undefined,
  tracestate: undefined,
  headers: {},
  death: envelope.death && {
    ...envelope.death,
    cause: `without its headers, which left no room: ${shorten(envelope.death.cause, 200)}`
  }
})

/** Longest text of a bare letter in bytes. */
const most = 255

/** At most so many bytes of UTF-8, and no half of a character: there are brokers that refuse those. */
export const shorten = (text: string, most: number): string => {
  const whole = text.toWellFormed()
  if (Buffer.byteLength(whole) <= most) return whole
  const { read } = new TextEncoder().encodeInto(whole, new Uint8Array(most - 3))
  return `${whole.slice(0, read)}…`
}
