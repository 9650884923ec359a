/**
 * The gateway that SMS are sent through, as this program sees it: an HTTP service of somebody else.
 */
import { Context, Effect, Layer, Schema } from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest } from "effect/http"
import { localGateway } from "./gateway/local.ts"
import { Settings } from "./Settings.ts"

/** It says when to come back. */
export class GatewayBusy extends Schema.TaggedError<GatewayBusy>()("GatewayBusy", { retryAfter: Schema.Finite }) {
  override get message(): string {
    return `the gateway is busy for ${this.retryAfter} s`
  }
}

/** It did not answer, or not with sense. Whether the SMS was sent is not known. */
export class GatewayDown extends Schema.TaggedError<GatewayDown>()("GatewayDown", { problem: Schema.String }) {
  override get message(): string {
    return `the gateway does not work: ${this.problem}`
  }
}

/** It never will send to this number. */
export class NumberRejected extends Schema.TaggedError<NumberRejected>()("NumberRejected", { phone: Schema.String }) {
  override get message(): string {
    return `the gateway knows nobody with ${this.phone}`
  }
}

export interface Sms {
  /** Of two requests with one id the gateway sends one. */
  readonly id: string
  readonly phone: string
  readonly text: string
}

export class SmsGateway extends Context.Service<
  SmsGateway,
  { readonly send: (sms: Sms) => Effect.Effect<void, GatewayBusy | GatewayDown | NumberRejected> }
>()("orders/SmsGateway") {
  /** Sends through the gateway at `SMS_GATEWAY`; without that, starts one. */
  static readonly layer = Layer.effect(
    SmsGateway,
    Effect.gen(function* () {
      const client = yield* HttpClient.HttpClient
      const { smsGateway } = yield* Settings
      const url = smsGateway ?? (yield* localGateway)
      const send = Effect.fnUntraced(function* ({ id, phone, text }: Sms) {
        const request = HttpClientRequest.post(new URL("/sms", url)).pipe(
          HttpClientRequest.setHeader("idempotency-key", id),
          HttpClientRequest.bodyJsonUnsafe({ phone, text })
        )
        const { headers, status } = yield* client.execute(request).pipe(
          // What is read to the end leaves its connection for the next one.
          Effect.tap((response) => response.text),
          Effect.mapError((error) => new GatewayDown({ problem: error.message }))
        )
        if (status === 200) return
        if (status === 422) return yield* new NumberRejected({ phone })
        if (status === 503) return yield* new GatewayBusy({ retryAfter: Number(headers["retry-after"] ?? 1) })
        return yield* new GatewayDown({ problem: `it answered ${status}` })
      })
      return SmsGateway.of({ send })
    })
  ).pipe(Layer.provide(FetchHttpClient.layer))
}
