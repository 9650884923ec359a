/** What the servers must know. Older ones close the connection at a request that they do not know, which says nothing. */
import {
  apiVersionsV3,
  consumerGroupHeartbeatV0,
  fetchV16,
  findCoordinatorV6,
  initProducerIdV4,
  listOffsetsV8,
  metadataV12,
  offsetCommitV9,
  offsetFetchV9,
  produceV11
} from "@platformatic/kafka"
import type { Cluster } from "./Cluster.ts"
import { Refusal } from "./errors.ts"

const needed: ReadonlyArray<readonly [name: string, { readonly key: number; readonly version: number }]> = [
  ["ConsumerGroupHeartbeat", consumerGroupHeartbeatV0.api],
  ["Fetch", fetchV16.api],
  ["FindCoordinator", findCoordinatorV6.api],
  ["InitProducerId", initProducerIdV4.api],
  ["ListOffsets", listOffsetsV8.api],
  ["Metadata", metadataV12.api],
  ["OffsetCommit", offsetCommitV9.api],
  ["OffsetFetch", offsetFetchV9.api],
  ["Produce", produceV11.api]
]

/** Fails where the server that answers first does not know all of them. */
export const checkVersions = async (cluster: Cluster): Promise<void> => {
  const { apiKeys } = await cluster.any(apiVersionsV3.api, "millrace", "1")
  const known = new Map(apiKeys.map(({ apiKey, maxVersion, minVersion }) => [apiKey, { minVersion, maxVersion }]))
  const unknown = needed.flatMap(([name, { key, version }]) => {
    const range = known.get(key)
    return range !== undefined && range.minVersion <= version && version <= range.maxVersion ? [] : [name]
  })
  if (unknown.length > 0) {
    throw new Refusal(
      "UNSUPPORTED_VERSION",
      `the server does not know these requests as they are sent: ${unknown.join(", ")}`
    )
  }
}
