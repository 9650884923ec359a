/**
 * `npm run check:crash -- sqlite --rounds 20 --seed 1`: processes publish and consume under load, are killed with SIGKILL at
 * random, and start again. What each of them wrote down beside the broker is then compared: nothing confirmed may be missing,
 * no key out of order, no attempt uncounted.
 *
 * Ends with a line such as `lost 0, reordered 0, duplicates 17, rounds 20`, and exits with 1 when anything was lost or
 * reordered. The histories stay in the folder that is named where something went wrong.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { brokers } from "./brokers.ts"
import { check, Progress, read } from "./history.ts"
import { Player } from "./Player.ts"

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "20" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    /** Longest wait for the rest to be worked off, in seconds. */
    patience: { type: "string", default: "120" }
  }
})
const [broker = "sqlite"] = positionals
const rounds = Number(values.rounds)
const seed = Number(values.seed)
if (brokers[broker] === undefined || !Number.isInteger(rounds) || rounds < 0 || !Number.isInteger(seed)) {
  process.stderr.write(`usage: npm run check:crash -- ${Object.keys(brokers).join("|")} [--rounds N] [--seed S]\n`)
  process.exit(2)
}

/** Numbers that look random and are the same for the same seed (mulberry32). */
const makeRandom = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), 1 | state)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 4_294_967_296
  }
}

const random = makeRandom(seed)
const sleep = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))
const folder = mkdtempSync(join(tmpdir(), `millrace-crash-${broker}-`))
process.stdout.write(`${broker}: ${rounds} rounds, seed ${seed}\n`)

await brokers[broker]?.prepare?.()
const publishers = [0, 1].map((n) => new Player("publisher", n, broker, folder))
const consumers = [0, 1].map((n) => new Player("consumer", n, broker, folder))
const players = [...consumers, ...publishers]
let code = 1
try {
  // Groups exist before the first message, so that each of them is owed all.
  for (const consumer of consumers) consumer.start()
  await Promise.all(consumers.map((consumer) => consumer.ready()))
  for (const publisher of publishers) publisher.start()
  for (let round = 1; round <= rounds; round++) {
    // Mostly in the middle of their work, now and then while they start.
    if (random() < 0.9) await Promise.all(players.map((player) => player.ready()))
    await sleep(random() * 1500)
    const victims = random() < 0.2 ? players : [players[Math.floor(random() * players.length)] as Player]
    for (const victim of victims) await victim.kill()
    await sleep(random() * 300)
    for (const victim of victims) victim.start()
  }
  await Promise.all(players.map((player) => player.ready()))
  await sleep(1000)
  for (const publisher of publishers) await publisher.stop()
  code = await workedOff(Number(values.patience) * 1000)
  for (const consumer of consumers) await consumer.stop()
} finally {
  for (const player of players) await player.kill()
}
const { letters, result } = await verdict()
const died = players.filter((player) => player.unexpectedEnds.length > 0)
for (const player of died) process.stdout.write(`${player.name} ended by itself: ${player.unexpectedEnds.join("; ")}\n`)
for (const problem of result.problems.slice(0, 20)) process.stdout.write(`${problem}\n`)
if (result.problems.length > 20) process.stdout.write(`… and ${result.problems.length - 20} more\n`)
process.stdout.write(
  `published ${result.confirmed} (confirmed), handled ${result.handled}, attempts ${result.attempts}, dead letters ${letters}, kills ${players.reduce((sum, player) => sum + player.kills, 0)}\n`
)
process.stdout.write(
  `lost ${result.lost}, reordered ${result.reordered}, duplicates ${result.duplicates}, rounds ${rounds}\n`
)
if (result.problems.length > 0 || code !== 0 || died.length > 0) {
  process.stdout.write(`The histories are in ${folder}\n`)
  process.exit(1)
}
rmSync(folder, { recursive: true, force: true })

/** Waits until every group has an outcome for everything that was confirmed; 1 where it does not come to that. */
async function workedOff(patience: number): Promise<number> {
  const end = Date.now() + patience
  const progress = new Progress(folder)
  while (Date.now() < end) {
    if (progress.isDone()) return 0
    await sleep(300)
  }
  process.stdout.write(`Not everything was worked off within ${patience / 1000} s\n`)
  return 1
}

/** Looks at the dead letters until there are as many as there must be, since they are written after the last attempt. */
async function verdict() {
  const history = read(folder)
  const look = brokers[broker]
  for (let tries = 0; ; tries++) {
    const letters = look === undefined ? [] : await look.deadLetters(folder)
    const result = check(history, letters, look?.ordered ?? false)
    if (result.lost === 0 || tries === 20) return { letters: letters.length, result }
    await sleep(500)
  }
}
