/** What the page may ask of the worker, and what it hears from it. */
import type { MaskPicture } from "../../src/pconv/picture.js";
import type { RgbaPicture } from "./pictures.js";

/** What somebody who waits may want to read: "Loading the network", or how far it is. */
export type Progress =
  | { readonly kind: "stage"; readonly text: string; readonly share?: number }
  | { readonly kind: "passes"; readonly done: number; readonly total: number }
  | { readonly kind: "notice"; readonly text: string };

export interface Filled {
  readonly picture: RgbaPicture;
  readonly seconds: number;
  readonly passes: number;
}

export interface TrainingNews {
  readonly step: number;
  readonly loss: number;
  readonly secondsPerStep: number;
  /** Masked, output, composite and truth side by side; only with some steps. */
  readonly strip?: RgbaPicture;
}

/** Of each call: request, events on the way, result. */
export interface Calls {
  /** Opens the GPU and loads the network. */
  prepare: { request: null; event: Progress; result: { readonly adapter: string } };
  fill: { request: { readonly picture: RgbaPicture; readonly mask: MaskPicture }; event: Progress; result: Filled };
  /** The mask before the first level of the network's encoder, and after each. */
  levels: { request: MaskPicture; event: never; result: { readonly masks: MaskPicture[]; readonly by: string } };
  encodePng: { request: RgbaPicture; event: never; result: Blob };
  /** Trains a small network on one picture until it is cancelled or has had its steps. */
  train: { request: RgbaPicture; event: TrainingNews; result: null };
  /** Whether training rests for now. */
  pauseTraining: { request: boolean; event: never; result: null };
}

export type CallName = keyof Calls;

/** An error as it crosses from the worker: the two lines that the library gives. */
export interface Trouble {
  /** "cancelled" is no error; "no-gpu" has guidance of its own. */
  readonly kind: "cancelled" | "no-gpu" | "failed";
  readonly problem: string;
  readonly help: string;
}

export type ToWorker =
  | {
      readonly [K in CallName]: { readonly id: number; readonly call: K; readonly request: Calls[K]["request"] };
    }[CallName]
  | { readonly id: number; readonly cancel: true };

export type FromWorker =
  | { readonly id: number; readonly event: unknown }
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly trouble: Trouble };

export class CallError extends Error {
  constructor(readonly trouble: Trouble) {
    super(trouble.problem);
  }
}
