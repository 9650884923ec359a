import { Effect, Layer, Logger, ManagedRuntime } from "effect"
import { Topic } from "millrace"
import { Nsq, NsqProtocol } from "millrace/nsq"
import nsqjs from "nsqjs"
import { urlOf } from "../scripts/services/state.ts"
import { encode, Order, orderOf } from "./order.ts"
import inspector from "node:inspector/promises"
import fs from "node:fs"
const host = urlOf("nsq", "nsqd1"), http = urlOf("nsq", "nsqd1Http")
const N = 20000
const s = new inspector.Session(); s.connect(); await s.post("Profiler.enable"); await s.post("Profiler.setSamplingInterval", { interval: 200 })
const mode = process.argv[2] ?? "ours", rounds = Number(process.argv[3] ?? 12), prof = process.argv[4] === "prof"
let measure
if (mode.startsWith("ours")) {
  const rt = ManagedRuntime.make(Layer.merge(Nsq.layer({ nsqd: [{ tcp: host, http }] }), Logger.layer([])))
  measure = async (r) => {
    const topic = Topic.make(`bench.zn.${process.pid}.${r}`, { schema: Order, version: 1, groups: ["g"] })
    await rt.runPromise(topic.declare)
    let next = 0
    const one = Effect.whileLoop({ while: () => next < N, body: () => topic.publish(orderOf(next++)), step: () => undefined })
    return { run: () => rt.runPromise(Effect.all(Array.from({ length: 256 }, () => one), { concurrency: "unbounded", discard: true })), name: topic.name }
  }
} else {
  const [a, p] = host.split(":"); const w = new nsqjs.Writer(a, Number(p)); await new Promise((res) => { w.once("ready", res); w.connect() })
  measure = async (r) => { const name = `bench.zn.${process.pid}.${r}`
    for (const what of [`topic/create?topic=${name}`, `channel/create?topic=${name}&channel=g`]) await fetch(`${http}/${what}`, { method: "POST" })
    return { name, run: () => new Promise((resolve, reject) => { let next = 0, done = 0; const go = () => { if (next >= N) return; w.publish(name, Buffer.from(JSON.stringify(encode(orderOf(next++)))), (e) => { if (e) reject(e); if (++done === N) resolve(); go() }) }; for (let i = 0; i < 256; i++) go() }) } }
}
const cpus = []
for (let r = 0; r < rounds; r++) {
  const { run, name } = await measure(r)
  if (prof && r === rounds - 4) await s.post("Profiler.start")
  const c0 = process.cpuUsage(), t = performance.now()
  await run()
  const wall = performance.now() - t, c = process.cpuUsage(c0)
  cpus.push([Math.round(N * 1000 / wall), ((c.user + c.system) / N).toFixed(1)])
  await Effect.runPromise(NsqProtocol.Lookup.deleteTopic(http, name))
}
if (prof) { const { profile } = await s.post("Profiler.stop"); fs.writeFileSync("/tmp/h/prof/n.cpuprofile", JSON.stringify(profile)) }
console.log(mode, cpus.slice(4).map((x) => x.join("/")).join(" "))
process.exit(0)
