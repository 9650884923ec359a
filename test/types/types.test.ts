/** The type tests compile, and what does not compile says why in words that help. */
import { execFileSync, spawnSync } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"

const root = resolve(import.meta.dirname, "../..")
const tsc = join(root, "node_modules/typescript/bin/tsc")
const output = join(root, "test/types/.errors")

const prelude = `
import { Effect, Schema } from "effect"
import { Background, Broker, Consumer, Topic, WorkerPool } from "millrace"
import { Layer } from "effect"
class BadImage extends Schema.TaggedError<BadImage>()("BadImage", {}) {}
declare const resize: Effect.Effect<string, BadImage>
declare const pool: WorkerPool.WorkerPool
declare const rejecting: WorkerPool.WorkerPool<"reject">
class Gone extends Schema.TaggedError<Gone>()("Gone", {}) {}
const Files = Topic.make("files", { schema: Schema.Struct({ name: Schema.String }), version: 1 })
declare const handle: (file: { readonly name: string }) => Effect.Effect<void, BadImage | Gone>
declare const bare: Layer.Layer<Broker.Broker>
`

const mistakes: ReadonlyArray<readonly [mistake: string, code: string, message: RegExp]> = [
  [
    "fork of work that can fail",
    "pool.fork(resize)",
    /Argument of type 'Effect<string, BadImage, never>' is not assignable[\s\S]*Expected 2 arguments|'BadImage' is not assignable to type 'never'/
  ],
  ["fork with options but no onFailure", 'pool.fork(resize, { name: "r" })', /Property 'onFailure' is missing/],
  [
    "Background.fork of work that can fail",
    "Background.fork(resize)",
    /'BadImage' is not assignable to type 'never'|Expected 2 arguments/
  ],
  [
    "a misspelt option",
    'pool.run(resize, { keey: "a" })',
    /'keey' does not exist in type[\s\S]*Did you mean to write 'key'\?/
  ],
  [
    "an unknown policy",
    'WorkerPool.make({ name: "a", concurrency: 1, onFull: "block" })',
    /Type '"block"' is not assignable to type 'OnFull/
  ],
  ["no concurrency", 'WorkerPool.make({ name: "a" })', /Property 'concurrency' is missing/],
  [
    "an unhandled refusal",
    "export const x: Effect.Effect<string, BadImage | WorkerPool.PoolClosed> = rejecting.run(resize)",
    /'PoolFull' is not assignable/
  ],
  [
    "a pool with another policy",
    "export const x: WorkerPool.WorkerPool = rejecting",
    /Type '"reject"' is not assignable to type '"suspend"'/
  ],
  [
    "a consumer that does not decide about every error",
    'Consumer.layer(Files, handle, { group: "g", onError: { BadImage: Consumer.deadLetter } })',
    /Property 'Gone' is missing/
  ],
  [
    "a consumer that decides about none",
    'Consumer.layer(Files, handle, { group: "g" })',
    /Property 'onError' is missing[\s\S]*BadImage/
  ],
  [
    "a decision about an error that cannot happen",
    'Consumer.layer(Files, handle, { group: "g", onError: { BadImage: Consumer.deadLetter, Gone: Consumer.deadLetter, Nope: Consumer.deadLetter } })',
    /'Nope' does not exist in type/
  ],
  [
    "an ability that the broker lacks",
    'Effect.runPromise(Files.publish({ name: "a" }, { delay: "1 hour" }).pipe(Effect.provide(bare)))',
    /Broker<"delay", "default">' is not assignable to (parameter of )?type 'never'/
  ],
  ["a payload of another type", "Files.publish({ nam: 1 })", /'nam' does not exist in type/]
]

describe("types", () => {
  afterAll(() => rmSync(output, { recursive: true, force: true }))

  it("the type tests compile", { timeout: 60_000 }, () => {
    const config = join(root, "test/types/tsconfig.json")
    assert.strictEqual(execFileSync(process.execPath, [tsc, "-p", config], { encoding: "utf8" }), "")
  })

  it("every mistake is refused, with a readable message", { timeout: 60_000 }, () => {
    mkdirSync(output, { recursive: true })
    mistakes.forEach(([, code], index) => writeFileSync(join(output, `${index}.ts`), `${prelude}\n${code}\n`))
    writeFileSync(
      join(output, "tsconfig.json"),
      JSON.stringify({ extends: "../../../tsconfig.json", include: ["*.ts"] })
    )
    const { stdout } = spawnSync(process.execPath, [tsc, "-p", output, "--pretty", "false"], { encoding: "utf8" })
    mistakes.forEach(([mistake, , message], index) => {
      const errors = stdout
        .split(/^(?=\S)/m)
        .filter((error) => error.includes(`${index}.ts(`) && !error.includes("TS6133") && !error.includes("TS6196"))
      assert.isAbove(errors.length, 0, `${mistake} compiles`)
      assert.match(errors.join("\n"), message, mistake)
    })
  })
})
