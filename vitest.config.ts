import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Each file in a process of its own: a native crash in one does not take the others along, and devices never mix.
    pool: "forks",
    // Software adapters use every core by themselves; more processes than this only make each other wait.
    maxWorkers: 2,
    globalSetup: ["test/support/announce.ts"],
    // The first dispatch of a kernel compiles it, which takes a software adapter up to seconds. Some hooks train three models, with
    // a driver that has compiled nothing yet or is slow itself.
    testTimeout: 120_000,
    hookTimeout: 300_000,
  },
});
