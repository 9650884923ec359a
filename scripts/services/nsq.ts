/**
 * NSQ: one nsqlookupd and two nsqd that report to it. Every message goes to disk before it is answered. Where a queue begins
 * and ends is written soon after, without which a killed nsqd loses what a new queue has; and timeouts are looked after in
 * each of many channels.
 */
import { existsSync, mkdirSync } from "node:fs"
import { join } from "node:path"
import { ask, get } from "./probe.ts"
import { need, run } from "./programs.ts"
import { define, host, type Process, type Program } from "./Service.ts"

const go: Program = { command: "go", folders: ["/usr/local/go/bin"], apt: "golang-go" }
const programs = ["nsqd", "nsqlookupd"]

export const nsq = define({
  name: "nsq",
  needs: [],
  buildNeeds: [go],
  ports: ["lookupdTcp", "lookupdHttp", "nsqd1Tcp", "nsqd1Http", "nsqd2Tcp", "nsqd2Http"],
  isInstalled: (installed) => programs.every((program) => existsSync(join(installed, program))),
  async install(installed) {
    console.log("building nsq with Go")
    const packages = programs.map((program) => `github.com/nsqio/nsq/apps/${program}`)
    await run(need(go), ["build", "-o", `${installed}/`, ...packages], { cwd: join(import.meta.dirname, "nsq") })
  },
  async prepare({ data }) {
    for (const name of ["nsqd1", "nsqd2"]) mkdirSync(join(data, name), { recursive: true })
  },
  processes({ data, installed, ports }) {
    const nsqd = (name: string, tcp: number, http: number): Process => ({
      name,
      command: join(installed, "nsqd"),
      args: [
        `-tcp-address=${host}:${tcp}`,
        `-http-address=${host}:${http}`,
        `-broadcast-address=${host}`,
        `-lookupd-tcp-address=${host}:${ports.lookupdTcp}`,
        `-data-path=${join(data, name)}`,
        "-mem-queue-size=0",
        "-sync-timeout=100ms",
        "-queue-scan-selection-count=1000"
      ],
      port: tcp,
      // Until nsqlookupd knows it, a consumer does not find it. An nsqd without one is up all the same.
      ready: async () => {
        await get(http, "/ping")
        const nodes = await get(ports.lookupdHttp, "/nodes").catch(() => undefined)
        if (nodes?.includes(`"tcp_port":${tcp},`) === false) throw new Error("nsqlookupd does not know it yet")
      }
    })
    return [
      {
        name: "nsqlookupd",
        command: join(installed, "nsqlookupd"),
        args: [
          `-tcp-address=${host}:${ports.lookupdTcp}`,
          `-http-address=${host}:${ports.lookupdHttp}`,
          `-broadcast-address=${host}`
        ],
        port: ports.lookupdTcp,
        ready: async () => {
          await get(ports.lookupdHttp, "/ping")
          await ask(ports.lookupdTcp, "  V1PING\n", (answer) => answer.includes("OK"))
        }
      },
      nsqd("nsqd1", ports.nsqd1Tcp, ports.nsqd1Http),
      nsqd("nsqd2", ports.nsqd2Tcp, ports.nsqd2Http)
    ]
  },
  urls: (ports) => ({
    lookupd: `http://${host}:${ports.lookupdHttp}`,
    nsqd1: `${host}:${ports.nsqd1Tcp}`,
    nsqd1Http: `http://${host}:${ports.nsqd1Http}`,
    nsqd2: `${host}:${ports.nsqd2Tcp}`,
    nsqd2Http: `http://${host}:${ports.nsqd2Http}`
  }),
  env: () => ({})
})
