/** Which partition a key belongs to: the same as for the Java clients and all that follow them. */

const seed = 0x9747b28c
const m = 0x5bd1e995

/** MurmurHash2 of 32 bits, as Kafka's own. */
export const murmur2 = (data: Uint8Array): number => {
  const { length } = data
  let h = seed ^ length
  let i = 0
  for (; i + 4 <= length; i += 4) {
    let k = byte(data, i) | (byte(data, i + 1) << 8) | (byte(data, i + 2) << 16) | (byte(data, i + 3) << 24)
    k = Math.imul(k, m)
    k = Math.imul(k ^ (k >>> 24), m)
    h = Math.imul(h, m) ^ k
  }
  const rest = length - i
  if (rest >= 3) h ^= byte(data, i + 2) << 16
  if (rest >= 2) h ^= byte(data, i + 1) << 8
  if (rest >= 1) h = Math.imul(h ^ byte(data, i), m)
  h = Math.imul(h ^ (h >>> 13), m)
  return h ^ (h >>> 15)
}

const byte = (data: Uint8Array, index: number): number => data[index] ?? 0

export const partitionOf = (key: Uint8Array, partitions: number): number => (murmur2(key) & 0x7fffffff) % partitions
