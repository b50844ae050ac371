/** Answers the page's calls. Runs in the worker, or in the page itself where workers have no WebGPU. */
import { UserError } from "../../src/errors.js";
import { inpaint } from "../../src/pconv/inpaint.js";
import type { CallName, Calls, Filled, Trouble } from "../app/calls.js";
import { seenPixels, toPicture, withHoleFilled } from "../app/pictures.js";
import { levelsOnCpu, levelsOnGpu } from "./levels.js";
import { encodePng } from "./png.js";
import { type Open, Session } from "./session.js";

type Handlers = {
  readonly [K in CallName]: (
    request: Calls[K]["request"],
    post: (event: Calls[K]["event"]) => void,
    signal: AbortSignal,
  ) => Promise<Calls[K]["result"]>;
};

export class Engine {
  private readonly session = new Session();
  /** The fill that runs now: training waits for it, and so does the next fill, when this one was cancelled. */
  private urgent: Promise<void> = Promise.resolve();
  /** Training goes on once this is done. */
  private resumed: Promise<void> = Promise.resolve();
  private resume: (() => void) | null = null;

  readonly handlers: Handlers = {
    prepare: async (_, post) => {
      const { gpu } = await this.session.open(post);
      // From here on the page needs no network: it may be gone by the time that somebody trains.
      import("./training.js").catch(ignore);
      return { adapter: gpu.adapter.name };
    },

    fill: ({ picture, mask }, post, signal) => {
      post({ kind: "stage", text: "Filling" });
      const fillNow = async ({ model }: Open): Promise<Filled> => {
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
      };
      const work = this.urgent.then(() => this.session.use(post, fillNow));
      this.urgent = work.then(ignore, ignore);
      return work;
    },

    levels: async (mask) => {
      if (!this.session.isOpen) return { masks: levelsOnCpu(mask), by: "computed on the CPU" };
      const masks = await this.session.use(ignore, ({ gpu }) => levelsOnGpu(gpu, mask));
      return { masks, by: "computed by the library's kernel on the GPU" };
    },

    encodePng: (picture) => encodePng(picture),

    train: async (picture, post, signal) => {
      const { train } = await import("./training.js");
      return this.session.use(ignore, ({ gpu }) =>
        train(gpu, picture, { signal, onNews: post, turn: () => this.resumed.then(() => this.urgent) }),
      );
    },

    pauseTraining: async (paused) => {
      if (paused) this.resumed = new Promise((resolve) => (this.resume = resolve));
      else this.resume?.();
      return null;
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
