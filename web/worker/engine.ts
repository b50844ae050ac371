/** Answers the page's calls. Runs in the worker, or in the page itself where workers have no WebGPU. */
import { UserError } from "../../src/errors.js";
import { inpaint } from "../../src/pconv/inpaint.js";
import type { CallName, Calls, Trouble } from "../app/calls.js";
import { seenPixels, toPicture, withHoleFilled } from "../app/pictures.js";
import { levelsOnCpu, levelsOnGpu } from "./levels.js";
import { encodePng } from "./png.js";
import { Session } from "./session.js";

type Handlers = {
  readonly [K in CallName]: (
    request: Calls[K]["request"],
    post: (event: Calls[K]["event"]) => void,
    signal: AbortSignal,
  ) => Promise<Calls[K]["result"]>;
};

export class Engine {
  private readonly session = new Session();
  /** The fill that runs now: training waits for it. */
  private urgent: Promise<unknown> = Promise.resolve();

  readonly handlers: Handlers = {
    prepare: async (_, post) => ({ adapter: (await this.session.open(post)).gpu.adapter.name }),

    fill: ({ picture, mask }, post, signal) => {
      const work = this.session.use(post, async ({ model }) => {
        signal.throwIfAborted();
        const begin = performance.now();
        post({ kind: "stage", text: "Filling" });
        const seen = seenPixels(picture);
        const { image, passes } = await inpaint(model, toPicture(picture), mask, {
          signal,
          ...(seen && { seen }),
          onProgress: ({ done, total }) => post({ kind: "passes", done, total }),
        });
        const filled = withHoleFilled(picture, mask, image);
        return { picture: filled, passes, seconds: (performance.now() - begin) / 1000 };
      });
      this.urgent = work.catch(() => undefined);
      return work;
    },

    levels: async (mask) => {
      if (!this.session.isOpen) return { masks: levelsOnCpu(mask), by: "computed on the CPU" };
      const masks = await this.session.use(ignore, ({ gpu }) => levelsOnGpu(gpu, mask));
      return { masks, by: "computed by the library's kernel on the GPU" };
    },

    encodePng: (picture) => encodePng(picture),

    train: async (picture, post, signal) => {
      // Most visitors never start it.
      const { train } = await import("./training.js");
      return this.session.use(ignore, ({ gpu }) =>
        train(gpu, picture, { signal, onNews: post, turn: () => this.urgent.then(ignore) }),
      );
    },
  };
}

const ignore = (): void => undefined;

/** An error in the words that the page shows. */
export function troubleOf(error: unknown, signal: AbortSignal): Trouble {
  if (signal.aborted) return { kind: "cancelled", problem: "Cancelled.", help: "" };
  if (error instanceof UserError) {
    const kind = error.where === "openGpu" ? "no-gpu" : "failed";
    return { kind, problem: `${error.where}: ${error.problem}`, help: error.help };
  }
  return { kind: "failed", problem: String(error), help: "reload the page; if it happens again, please report it" };
}
