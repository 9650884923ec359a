import * as K from "@platformatic/kafka"
import { urlOf } from "./scripts/services/state.ts"

const [host, port] = urlOf("kafka", "bootstrap").split(":")
const pool = new K.ConnectionPool("probe", { maxInflights: 10 })
const c = await pool.get({ host: host!, port: Number(port) })
const log = (...a: any[]) =>
  console.log(...a.map((x) => JSON.stringify(x, (_, v) => (typeof v === "bigint" ? String(v) : v))))
const t = process.argv[2]!
for (const g of ["ordered", "plain"]) {
  const groupId = `${t}..${g}`
  try {
    log(await K.consumerGroupDescribeV0.api.async(c, [groupId], false))
  } catch (e: any) {
    log(g, String(e), e.errors?.map(String))
  }
  for (const name of [t, `${t}..${g}..retry`]) {
    const f = await K.offsetFetchV9.api.async(
      c,
      [{ groupId, memberId: null, memberEpoch: -1, topics: [{ name, partitionIndexes: [0, 1, 2, 3] }] }],
      true
    )
    const e = await K.listOffsetsV8.api.async(c, -1, 0, [
      {
        name,
        partitions: [0, 1, 2, 3].map((partitionIndex) => ({ partitionIndex, currentLeaderEpoch: -1, timestamp: -1n }))
      }
    ])
    log(
      name,
      f.groups[0]!.topics[0]!.partitions.map((p) => [p.partitionIndex, p.committedOffset, p.metadata]),
      e.topics[0]!.partitions.map((p) => [p.partitionIndex, p.offset])
    )
  }
}
await pool.close()
