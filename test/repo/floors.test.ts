/** A module imports only from its own floor or the floors below it; nobody reaches into another floor's `internal`. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative, resolve } from "node:path"
import { assert, describe, it } from "@effect/vitest"

/** From the ground up. A floor may use itself and what stands before it. */
const floors = ["registry", "pool", "messaging", "brokers", "jobs", "observe", "testing", "cli"]
const src = resolve(import.meta.dirname, "../../src")

const modules = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"))

const importsOf = (file: string): ReadonlyArray<string> =>
  [...readFileSync(join(src, file), "utf8").matchAll(/^(?:import|export)\b[^;]*?\bfrom "(\.[^"]+)"/gms)].map((match) =>
    relative(src, resolve(src, dirname(file), match[1] ?? ""))
  )

describe("floors", () => {
  it("has modules to check, each on a known floor", () => {
    assert.isAbove(modules.length, 15)
    for (const file of modules) {
      if (file === "index.ts") continue
      assert.include(floors, file.split("/")[0], `${file} stands on no floor`)
    }
  })

  for (const file of modules) {
    it(`${file} imports from its floor or below`, () => {
      const own = file === "index.ts" ? floors.length : floors.indexOf(file.split("/")[0] ?? "")
      for (const imported of importsOf(file)) {
        assert.isTrue(modules.includes(imported), `${file} imports ${imported}, which does not exist`)
        const floor = imported.split("/")[0] ?? ""
        assert.isAtMost(floors.indexOf(floor), own, `${file} reaches up to ${imported}`)
        if (imported.includes("/internal/")) {
          assert.strictEqual(floor, file.split("/")[0], `${file} reaches into ${imported}`)
        }
      }
    })
  }
})
