import { defineConfig } from "vitest/config"

export default defineConfig({
  root: new URL("..", import.meta.url).pathname,
  resolve: { conditions: ["millrace-source"] },
  ssr: { resolve: { conditions: ["millrace-source"], externalConditions: ["millrace-source"] } },
  test: {
    include: ["test/**/*.test.ts"],
    // A pool that hangs is a bug; it shall not look like a slow machine.
    testTimeout: 20_000
  }
})
