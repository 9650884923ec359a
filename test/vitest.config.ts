import { defineConfig } from "vitest/config"

export default defineConfig({
  root: new URL("..", import.meta.url).pathname,
  resolve: { conditions: ["millrace-source"] },
  ssr: { resolve: { conditions: ["millrace-source"], externalConditions: ["millrace-source"] } },
  test: {
    // A pool that hangs is a bug; it shall not look like a slow machine.
    testTimeout: 20_000,
    projects: [
      { extends: true, test: { name: "core", include: ["test/**/*.test.ts"], exclude: ["test/brokers/**"] } },
      {
        extends: true,
        // One file after the other: they restart and kill the servers that they share.
        test: { name: "brokers", include: ["test/brokers/**/*.test.ts"], fileParallelism: false, testTimeout: 120_000 }
      }
    ]
  }
})
