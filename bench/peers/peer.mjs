/**
 * One peer in a process of its own, driven by messages: its crash or hang ends nothing but its own rows.
 *
 * usage: forked as `peer.mjs NAME`, where NAME.mjs exports
 *   open() -> { adapter, version }
 *   prepare({ layer, pass, operands }) -> { run(passes), output(operands), free(), overhead? }
 * Operands are NHWC float32 (`x`, `dy`) and [kh][kw][ci][co] (`weight`); so is what `output` gives. `run` does the pass so
 * many times and waits by reading something of the last result back; `overhead` is what one pass of it costs beside the
 * computation, in milliseconds.
 */
import { performance } from "node:perf_hooks";

const peer = await import(new URL(`${process.argv[2]}.mjs`, import.meta.url));
let prepared = null;

const requests = {
  open: () => peer.open(),
  prepare: async (request) => {
    prepared = await peer.prepare(request);
  },
  sample: async ({ passes }) => {
    const started = performance.now();
    await prepared.run(passes);
    const ms = (performance.now() - started) / passes;
    // What the peer spends on moving operands, which the others hold on the device; never more than what is left of it.
    return Math.max(ms / 2, ms - (prepared.overhead ?? 0));
  },
  output: ({ operands }) => prepared.output(operands),
  free: async () => {
    await prepared?.free();
    prepared = null;
  },
};

process.on("message", async ({ op, ...request }) => {
  try {
    const result = await requests[op](request);
    process.send({ result });
  } catch (error) {
    process.send({ error: String(error?.message ?? error) });
  }
});
process.on("disconnect", () => process.exit(0));
process.send({ ready: true });
