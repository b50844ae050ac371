/** `npm run test:web`: the page of web/dist, and the kernels, in a real Chromium. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/web/**/*.web.ts"],
    pool: "forks",
    // One browser at a time: its software adapter uses every core.
    maxWorkers: 1,
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
