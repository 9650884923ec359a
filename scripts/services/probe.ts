/**
 * Asks a server something over TCP or HTTP, to know that it is there.
 */
import { connect } from "node:net"
import { host } from "./Service.ts"

/** How long one question may take. */
const patience = 2000

/**
 * Connects, sends, and resolves with what came as soon as `enough` says so. Rejects when the connection is refused or ends,
 * when the answer is wrong (`enough` throws), or after two seconds.
 */
export const ask = (port: number, send: Uint8Array | string, enough: (answer: Buffer) => boolean): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    let answer = Buffer.alloc(0)
    const socket = connect({ host, port })
    const end = (error: Error | undefined) => {
      socket.destroy()
      if (error === undefined) resolve(answer)
      else reject(error)
    }
    socket.setTimeout(patience, () => end(new Error(`port ${port} does not answer`)))
    socket.on("error", end)
    socket.on("close", () => end(new Error(`port ${port} closed the connection`)))
    if (send.length > 0) socket.write(send)
    socket.on("data", (chunk) => {
      answer = Buffer.concat([answer, chunk])
      try {
        if (enough(answer)) end(undefined)
      } catch (error) {
        end(error instanceof Error ? error : new Error(String(error)))
      }
    })
  })

/** The body of a successful GET. */
export const get = async (port: number, path: string): Promise<string> => {
  const response = await fetch(`http://${host}:${port}${path}`, { signal: AbortSignal.timeout(patience) })
  const body = await response.text()
  if (!response.ok) throw new Error(`${path} of port ${port}: ${response.status} ${body}`)
  return body
}

/** Whether anything listens there. */
export const isTaken = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ host, port })
    const end = (taken: boolean) => {
      socket.destroy()
      resolve(taken)
    }
    socket.on("connect", () => end(true))
    socket.on("error", () => end(false))
  })
