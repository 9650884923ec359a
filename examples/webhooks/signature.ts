/**
 * Signatures, after the Standard Webhooks specification (https://www.standardwebhooks.com), for which most languages have a
 * library. A subscriber shares a secret with this service, and gets three headers with each request:
 *
 *     webhook-id          the id of the event: the same for each attempt, so that a subscriber can tell repetitions
 *     webhook-timestamp   seconds since 1970, when this attempt was made
 *     webhook-signature   "v1," and the HMAC-SHA256, in base64, of "<id>.<timestamp>.<body>"; several stand side by side
 */
import { createHmac, timingSafeEqual } from "node:crypto"
import { Schema } from "effect"

/** `whsec_` and 24 to 64 random bytes in base64. */
export const Secret = Schema.String.check(
  Schema.isPattern(/^whsec_(?=.{32,88}$)(?:[A-Za-z\d+/]{4})*(?:[A-Za-z\d+/]{2}==|[A-Za-z\d+/]{3}=)?$/, {
    message: 'Expected "whsec_" and 24 to 64 bytes in base64'
  })
)

/** Older and newer requests are refused, so that one that was overheard cannot be sent again later. */
const toleranceSeconds = 5 * 60

export interface Signed {
  readonly "webhook-id": string
  readonly "webhook-timestamp": string
  readonly "webhook-signature": string
}

const hmac = (secret: string, id: string, timestamp: string, body: string): Buffer =>
  createHmac("sha256", Buffer.from(secret.slice("whsec_".length), "base64"))
    .update(`${id}.${timestamp}.${body}`)
    .digest()

/** The headers of a request. */
export const sign = (secret: string, id: string, nowMillis: number, body: string): Signed => {
  const timestamp = String(Math.floor(nowMillis / 1000))
  return {
    "webhook-id": id,
    "webhook-timestamp": timestamp,
    "webhook-signature": `v1,${hmac(secret, id, timestamp, body).toString("base64")}`
  }
}

/** What a subscriber does with a request: `body` is what came over the wire, before anything has parsed it. */
export const verify = (
  secret: string,
  headers: Readonly<Partial<Record<keyof Signed, string>>>,
  nowMillis: number,
  body: string
): boolean => {
  const { "webhook-id": id = "", "webhook-signature": signatures = "", "webhook-timestamp": timestamp = "" } = headers
  const age = Math.abs(nowMillis / 1000 - Number(timestamp))
  if (!/^\d+$/.test(timestamp) || age > toleranceSeconds) return false
  const expected = hmac(secret, id, timestamp, body)
  return signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64")
    // In constant time: how long a comparison takes must not tell how much of a guess was right.
    return signature.startsWith("v1,") && given.length === expected.length && timingSafeEqual(given, expected)
  })
}
