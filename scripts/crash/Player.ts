/**
 * A process that publishes or consumes, which can be killed and started again.
 */
import type { ChildProcess } from "node:child_process"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"

export class Player {
  kills = 0
  /** How it ended when nobody had ended it. */
  readonly unexpectedEnds: Array<string> = []
  readonly name: string
  private child: ChildProcess | undefined = undefined
  private started: Promise<void> = Promise.resolve()
  private generation = 0
  private readonly role: "publisher" | "consumer"
  private readonly broker: string
  private readonly folder: string

  constructor(role: "publisher" | "consumer", index: number, broker: string, folder: string) {
    this.role = role
    this.name = `${role}${index}`
    this.broker = broker
    this.folder = folder
  }

  start(): void {
    const generation = ++this.generation
    const child = spawn(
      process.execPath,
      [
        "--conditions=millrace-source",
        join(import.meta.dirname, `${this.role}.ts`),
        this.broker,
        this.folder,
        this.name,
        String(generation)
      ],
      { stdio: ["ignore", "pipe", "inherit"] }
    )
    this.child = child
    this.started = new Promise((resolve) => {
      child.stdout?.on("data", (data: Buffer) => {
        if (data.toString().includes("ready")) resolve()
        else process.stdout.write(data)
      })
      child.once("exit", () => resolve())
    })
    child.once("exit", (code, signal) => {
      if (this.child !== child) return
      this.child = undefined
      this.unexpectedEnds.push(`generation ${generation}: code ${code}, signal ${signal}`)
    })
  }

  ready(): Promise<void> {
    return this.started
  }

  async kill(): Promise<void> {
    if (await this.end("SIGKILL")) this.kills++
  }

  async stop(): Promise<void> {
    await this.end("SIGTERM")
  }

  private async end(signal: "SIGKILL" | "SIGTERM"): Promise<boolean> {
    const { child } = this
    this.child = undefined
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return false
    const exited = once(child, "exit")
    child.kill(signal)
    const [code] = await exited
    // NodeRuntime answers a signal with 130.
    if (signal === "SIGTERM" && code !== 0 && code !== 130) this.unexpectedEnds.push(`on SIGTERM with code ${code}`)
    return true
  }
}
