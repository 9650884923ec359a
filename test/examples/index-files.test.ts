import { execFileSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it, onTestFinished } from "vitest"
import { poll, root, start } from "./program.ts"

/** What a terminal is sent to begin its line again. */
const eraseLine = "\r\x1b[K"

const indexFiles = (args: ReadonlyArray<string>, cwd = root) => start("index-files/main.ts", { args, cwd })

const temporaryFolder = (): string => {
  const folder = mkdtempSync(join(tmpdir(), "index-files-"))
  // Node cannot remove a file whose path is too long, and a test makes one.
  onTestFinished(() => {
    execFileSync("rm", ["-rf", folder])
  })
  return folder
}

const linesOf = (file: string): number => (existsSync(file) ? readFileSync(file, "utf8").split("\n").length - 1 : 0)

/** Lets `sha256sum` hash the files again; throws where it does not agree. */
const checkHashes = (file: string, cwd: string): void => {
  execFileSync("sha256sum", ["--check", "--strict", "--quiet", file], { cwd })
}

/** The numbers in a row of the table: how many files, and their size. */
const row = (output: string, type: string): ReadonlyArray<string> | undefined =>
  output
    .split("\n")
    .find((line) => line.startsWith(`${type} `))
    ?.slice(type.length)
    .trim()
    .split(/ {2,}/)

/** One sentence on standard error and nothing on standard output. */
const assertRefused = async (program: ReturnType<typeof start>, sentence: RegExp) => {
  assert.strictEqual(await program.ended, 1)
  assert.match(program.stderr(), sentence)
  assert.strictEqual(program.stderr().trimEnd().split("\n").length, 1)
  assert.strictEqual(program.stdout(), "")
}

describe("examples/index-files", { timeout: 60_000 }, () => {
  it("counts, measures and hashes every file", async () => {
    const folder = temporaryFolder()
    mkdirSync(join(folder, "files/deep/er"), { recursive: true })
    const files: Record<string, string | Uint8Array> = {
      "one.txt": "one",
      "TWO.TXT": "two two",
      empty: "",
      "deep/large.bin": new Uint8Array(3_000_000).fill(7),
      "deep/er/three.json": "{}",
      "deep/er/größe 3 €.json": "[]",
      "deep/a\nnew\\line": "ab"
    }
    for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, "files", name), content)
    // Links out of the folder and back up in it are not followed, and a pipe to which nobody writes is not opened.
    writeFileSync(join(folder, "outside.txt"), "outside")
    symlinkSync("../outside.txt", join(folder, "files/link.txt"))
    symlinkSync("..", join(folder, "files/deep/up"))
    execFileSync("mkfifo", [join(folder, "files/pipe")])

    // The hashes lie in the folder themselves and are not among them.
    const program = indexFiles(["files", "--hashes", "files/SHA256SUMS"], folder)
    assert.strictEqual(await program.ended, 0)
    assert.strictEqual(program.stderr(), "")
    const output = program.stdout()
    assert.deepStrictEqual(row(output, "total"), ["7", "2.9 MiB"])
    assert.deepStrictEqual(row(output, ".bin"), ["1", "2.9 MiB"])
    assert.deepStrictEqual(row(output, ".txt"), ["2", "10.0 B"])
    assert.deepStrictEqual(row(output, ".json"), ["2", "4.0 B"])
    assert.deepStrictEqual(row(output, "(none)"), ["2", "2.0 B"])
    assert.match(output, /^\d+\.\d\d s, [\d,]+ files\/s, \d+\.\d \w+\/s, peak memory \d+\.\d MiB$/m)
    assert.notInclude(output, "could not be read")
    assert.notInclude(output, "\x1b", "no control characters where there is no terminal")
    checkHashes("files/SHA256SUMS", folder)
    assert.strictEqual(linesOf(join(folder, "files/SHA256SUMS")), 7)
  })

  // Root reads a file without permissions. But nobody opens a path of more than 4095 bytes; and Node, whose paths are
  // text, finds no file whose name is not UTF-8.
  it.runIf(process.platform === "linux")("lists what cannot be read, and goes on", async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, "readable.txt"), "readable")
    writeFileSync(Buffer.concat([Buffer.from(join(folder, "not-utf8-")), Buffer.from([0xff])]), "unreadable")
    let deep = folder
    while (deep.length < 3900) deep = join(deep, "d".repeat(90))
    mkdirSync(deep, { recursive: true })
    const long = "f".repeat(250)
    execFileSync("sh", ["-c", `echo unreadable > ${long}.txt; mkdir ${long}`], { cwd: deep })

    const program = indexFiles([folder, "--hashes", join(folder, "SHA256SUMS")])
    assert.strictEqual(await program.ended, 0)
    const output = program.stdout()
    assert.deepStrictEqual(row(output, "total"), ["1", "8.0 B"])
    assert.match(output, /^3 could not be read:$/m)
    assert.match(output, /^ {2}.*not-utf8-.*: ENOENT: no such file or directory$/m)
    assert.match(output, /^ {2}.*f+\.txt: ENAMETOOLONG: name too long$/m)
    assert.match(output, /^ {2}.*f+: ENAMETOOLONG: name too long$/m)
    checkHashes(join(folder, "SHA256SUMS"), folder)
  })

  it("finishes the files in hand when it is interrupted, and says how far it came", async () => {
    const hashes = join(temporaryFolder(), "SHA256SUMS")
    const program = indexFiles(["--hashes", hashes])
    await poll("a hundred files are hashed", () => (linesOf(hashes) >= 100 ? true : undefined))
    program.kill("SIGINT")
    assert.strictEqual(await program.ended, 130)
    const output = program.stdout()
    assert.match(output, /^Interrupted: at most 3 seconds for the files in hand\.$/m)
    const report = /^Pool "files" closed in \d+ ms: (\d+) drained, .* interrupted, 0 abandoned, \d+ dropped/m.exec(
      output
    )
    assert.isAbove(Number(report?.[1]), 0, "files were in hand")
    assert.deepStrictEqual(row(output, "total")?.[0]?.replaceAll(",", ""), String(linesOf(hashes)))
    assert.match(readFileSync(hashes, "utf8"), /^([\da-f]{64} {2}.+\n)+$/, "no line is cut off")
  })

  it("names what did not end in time", async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, "small.txt"), "small")
    writeFileSync(join(folder, "endless.bin"), "")
    // A hole: it takes no room, and hours to read.
    truncateSync(join(folder, "endless.bin"), 4e12)
    const hashes = join(temporaryFolder(), "SHA256SUMS")
    const program = indexFiles([folder, "--hashes", hashes])
    await poll("the small file is hashed", () => (linesOf(hashes) === 1 ? true : undefined))
    program.kill("SIGINT")
    assert.strictEqual(await program.ended, 130)
    assert.match(program.stdout(), /^Pool "files" closed in \d+ ms: 0 drained, 1 \[.*endless\.bin\] interrupted/m)
    assert.deepStrictEqual(row(program.stdout(), "total"), ["1", "5.0 B"])
  })

  it("says in a sentence what is wrong with its input", async () => {
    const folder = temporaryFolder()
    const file = join(folder, "file")
    writeFileSync(file, "")
    await assertRefused(
      indexFiles([join(folder, "nowhere")]),
      /^Cannot index .*nowhere: ENOENT: no such file or directory$/m
    )
    await assertRefused(indexFiles([file]), /^Cannot index .*file: it is not a folder$/m)
    await assertRefused(
      indexFiles([folder, "--hashes", join(file, "x")]),
      /^Cannot write .*x: ENOTDIR: not a directory$/m
    )
  })

  it.runIf(existsSync("/dev/full"))("stops when the hashes cannot be written", async () => {
    const program = indexFiles(["--hashes", "/dev/full"])
    assert.strictEqual(await program.ended, 1)
    assert.strictEqual(program.stderr(), "Cannot write /dev/full: ENOSPC: no space left on device\n")
  })

  it.runIf(existsSync("/usr/bin/script"))("redraws its progress on a terminal, and wipes it away at the end", () => {
    const command = "node_modules/.bin/node --conditions=millrace-source examples/index-files/main.ts src"
    const output = execFileSync("script", ["-qec", command, "/dev/null"], { cwd: root, encoding: "utf8" })
    const drawn = output.split(eraseLine)
    assert.strictEqual(drawn[0], "")
    assert.match(drawn[1] ?? "", /^0 files, 0 B; \d being read, \d+ waiting$/)
    assert.match(drawn.at(-1) ?? "", /^type +files +size\r\n\.ts /)
  })
})
