/** The GPU and the network on it: opened when first needed, and again when the device is lost. */
import { GpuError } from "../../src/errors.js";
import { openGpu } from "../../src/gpu/browser.js";
import type { Gpu } from "../../src/gpu/gpu.js";
import { PConvUNet } from "../../src/pconv/unet.js";
import type { Progress } from "../app/calls.js";
import { readDefaultWeights } from "./weights.js";

/** An open GPU with the network on it. */
export interface Open {
  readonly gpu: Gpu;
  readonly model: PConvUNet;
}

/** After a driver's reset the browser offers no adapter for a moment. */
const REOPEN_AFTER_MS = [0, 500, 2000];
/** A device says that it is lost after the work on it failed: at once, or a second later where everything is slow. */
const LOSS_NEWS_MS = 2000;

const LOST = Symbol("the device was lost");

const wait = (ms: number): Promise<false> => new Promise((resolve) => setTimeout(() => resolve(false), ms));

export class Session {
  private opened: Promise<Open> | null = null;
  private latest: Open | null = null;
  private weights: Uint8Array | null = null;
  private wasOpen = false;

  /** Whether a GPU is there already, or on its way. */
  get isOpen(): boolean {
    return this.opened !== null;
  }

  /** @throws {GpuError} without WebGPU; {@link UserError} without weights */
  open(post: (news: Progress) => void): Promise<Open> {
    this.opened ??= this.start(post).catch((error: unknown) => {
      this.opened = null;
      throw error;
    });
    return this.opened;
  }

  private async start(post: (news: Progress) => void): Promise<Open> {
    post({ kind: "stage", text: "Opening the GPU" });
    const gpu = await this.openDevice();
    this.wasOpen = true;
    const text = "Loading the network";
    this.weights ??= await readDefaultWeights((share) => post({ kind: "stage", text, share }));
    post({ kind: "stage", text: "Preparing the network" });
    this.latest = { gpu, model: await PConvUNet.load(gpu, this.weights) };
    return this.latest;
  }

  private async openDevice(): Promise<Gpu> {
    if (!this.wasOpen) return openGpu();
    for (let attempt = 0; ; attempt++) {
      await wait(REOPEN_AFTER_MS[attempt]);
      try {
        return await openGpu();
      } catch (error) {
        if (attempt === REOPEN_AFTER_MS.length - 1) throw error;
      }
    }
  }

  /** Runs something on the GPU; if the device is lost on the way, opens it again and runs it once more. */
  async use<T>(post: (news: Progress) => void, run: (open: Open) => Promise<T>): Promise<T> {
    const first = await this.attempt(post, run);
    if (first !== LOST) return first;
    await this.open(post);
    post({ kind: "notice", text: "The GPU was lost. It is open again, and the work starts over." });
    const second = await this.attempt(post, run);
    if (second !== LOST) return second;
    const help = "try once more; if it happens every time, close what else uses the GPU, or update its driver";
    throw new GpuError("GPU", "it was lost again", help);
  }

  private async attempt<T>(post: (news: Progress) => void, run: (open: Open) => Promise<T>): Promise<T | typeof LOST> {
    const open = await this.open(post);
    try {
      return await run(open);
    } catch (error) {
      if (!(error instanceof GpuError)) throw error;
      const lost = await Promise.race([open.gpu.device.lost.then(() => true), wait(LOSS_NEWS_MS)]);
      // A device that reported an error refuses all work from then on: the next call opens another.
      this.forget(open);
      if (!lost) throw error;
      return LOST;
    }
  }

  /** Another call may have found out before, and opened another device. */
  private forget(open: Open): void {
    if (this.latest === open) this.opened = null;
    open.gpu.close();
  }
}
