/** The client of NSQ by itself: connections to nsqd, and questions to nsqlookupd. */
export * as Command from "./Command.ts"
export { ask, Connection, type ConnectOptions, connect, type Features } from "./Connection.ts"
export { ConnectionLost, FrameError, ServerError } from "./errors.ts"
export { FrameParser } from "./FrameParser.ts"
export * as Lookup from "./Lookup.ts"
export { type Message, readMessage } from "./Message.ts"
