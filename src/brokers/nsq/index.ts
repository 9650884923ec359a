/** NSQ as the broker, and its client by itself. */
export * as Nsq from "./Nsq.ts"
export * as NsqProtocol from "./protocol/index.ts"
