/**
 * What one server has to say about itself. The rest (ports, processes, the file that tests read) is the same for all.
 */

/** A program that a server needs, and where it comes from. */
export interface Program {
  readonly command: string
  /** Where to look before the PATH. A `*` stands for the highest version there. */
  readonly folders?: ReadonlyArray<string>
  /** The Debian package. */
  readonly apt: string
}

/** Where a server lives, and on which ports. */
export interface Place<Port extends string = string> {
  /** What was built or downloaded for it; survives `down --purge`. */
  readonly installed: string
  readonly data: string
  readonly ports: Readonly<Record<Port, number>>
}

/** One process of a server. */
export interface Process {
  readonly name: string
  readonly command: string
  readonly args: ReadonlyArray<string>
  readonly env?: Readonly<Record<string, string>>
  readonly user?: User | undefined
  /** The port that must be free before it starts. */
  readonly port: number
  /** How to ask it to stop in good order. Default SIGTERM. */
  readonly stop?: "SIGTERM" | "SIGINT"
  /** Asks it something; rejects while it does not answer as it should. */
  readonly ready: () => Promise<unknown>
}

export interface User {
  readonly uid: number
  readonly gid: number
}

/** A server: one or more processes that are started in order and stopped in the opposite one. */
export interface Service<
  Port extends string = string,
  Urls extends Readonly<Record<string, string>> = Readonly<Record<string, string>>
> {
  readonly name: string
  readonly needs: ReadonlyArray<Program>
  /** What only `install` needs. */
  readonly buildNeeds?: ReadonlyArray<Program>
  /** Names of its ports. */
  readonly ports: ReadonlyArray<Port>
  /** Where the data lies, if not in the project's own folder. */
  data?(): string
  /** Builds or downloads what no package has; called when `isInstalled` says no. */
  install?(installed: string): Promise<void>
  isInstalled?(installed: string): boolean
  /** Writes configuration and creates the data; called before each start. */
  prepare(place: Place<Port>): Promise<void>
  processes(place: Place<Port>): ReadonlyArray<Process>
  /** What a client connects to. */
  urls(ports: Readonly<Record<Port, number>>): Urls
  /** Environment in which the server's own command line tools find it. */
  env(place: Place<Port>): Readonly<Record<string, string>>
  /** Folder of these tools, where it is not on the PATH or the ones on the PATH are not the right ones. */
  tools?(): string
}

/** Keeps the names of ports and urls in the type. */
export const define = <const Port extends string, Urls extends Readonly<Record<string, string>>>(
  service: Service<Port, Urls>
): Service<Port, Urls> => service

/** The only address that anything here listens on. */
export const host = "127.0.0.1"
