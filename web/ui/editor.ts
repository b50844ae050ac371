/** The editor: what is open, what may be done with it now, and the doing. */
import { CallError, type Filled, type Progress, type Trouble } from "../app/calls.js";
import type { Client } from "../app/client.js";
import { Editing } from "../app/editing.js";
import type { MaskLayer } from "../app/mask.js";
import { maskFromRgba, maskToRgba, type RgbaPicture } from "../app/pictures.js";
import { drawSample } from "../app/sample.js";
import type { MaskPicture } from "../../src/pconv/picture.js";
import { button, byId } from "./dom.js";
import { decode, download, takeDropsAndPastes, toBitmap } from "./files.js";
import { News } from "./news.js";
import { Stage } from "./stage.js";
import { Toolbar } from "./toolbar.js";

type Phase = "empty" | "edit" | "filling" | "result";

/** The picture on the stage, with its mask. */
interface Open {
  readonly name: string;
  readonly picture: RgbaPicture;
  readonly bitmap: ImageBitmap;
  readonly editing: Editing;
  /** A hole was filled and kept before. */
  readonly changed: boolean;
}

interface Result extends Filled {
  readonly bitmap: ImageBitmap;
}

const sizeOf = ({ width, height }: RgbaPicture): string => `${width} × ${height}`;

const holeShare = ({ editing: { mask } }: Open): number => mask.holes / (mask.width * mask.height);

/** Where the hole is on average, as a share of the width: a comparison that begins there shows both sides of it. */
function middleOfHole({ width, holes, values }: MaskLayer): number {
  let sum = 0;
  values.forEach((value, i) => (sum += value === 0 ? (i % width) + 0.5 : 0));
  return sum / holes / width;
}

export class Editor {
  private readonly root = byId("editor", HTMLElement);
  private readonly stage = new Stage(byId("canvas", HTMLCanvasElement));
  private readonly news = new News();
  private readonly toolbar = new Toolbar(this.stage, this.root);
  private open: Open | null = null;
  private result: Result | null = null;
  private phase: Phase = "empty";
  private fillStop: AbortController | null = null;
  /** Leaving the page would lose work: strokes, or a picture that was filled and not downloaded. */
  private unsaved = false;
  /** "failed" may go better the next time, such as a download. */
  private gpu: "opening" | "ready" | "none" | "failed" = "opening";

  /**
   * @param onMask told of every finished change of the mask
   * @param onTrouble told when the GPU cannot be had
   */
  constructor(
    private readonly client: Client,
    private readonly on: {
      mask(mask: MaskPicture): void;
      adapter(name: string): void;
      noGpu(trouble: Trouble): void;
    },
  ) {
    const photo = byId("photo-file", HTMLInputElement);
    const mask = byId("mask-file", HTMLInputElement);
    for (const id of ["open", "open-first"]) button(id).onclick = () => photo.click();
    photo.onchange = () => this.take(photo, (file) => this.openFile(file));
    button("sample").onclick = () => void this.guard(() => this.show("sample", drawSample()));
    takeDropsAndPastes((file) => void this.guard(() => this.openDropped(file)));
    button("load-mask").onclick = () => mask.click();
    mask.onchange = () => this.take(mask, async (file) => this.loadMask(maskFromRgba(await decode(file))));
    button("save-mask").onclick = () => void this.guard(() => this.saveMask());
    button("fill").onclick = () => void this.guard(() => this.fill());
    button("cancel").onclick = () => this.fillStop?.abort();
    button("back").onclick = () => this.dropResult();
    button("continue").onclick = () => void this.guard(() => this.keepResult());
    button("download").onclick = () => void this.guard(() => this.save());
    this.toolbar.onUndo = () => this.open?.editing.undo();
    this.toolbar.onRedo = () => this.open?.editing.redo();
    button("clear").onclick = () => this.open?.editing.clear();
    button("invert").onclick = () => this.open?.editing.invert();
    this.stage.onEdit = () => this.maskEdited();
    window.addEventListener("beforeunload", (event) => {
      if (this.unsaved || this.phase === "filling") event.preventDefault(); // the browser asks, in words of its own
    });
    this.update();
  }

  /** What the training demo may learn from. */
  get picture(): RgbaPicture | null {
    return this.open?.picture ?? null;
  }

  private take(input: HTMLInputElement, use: (file: File) => Promise<void>): void {
    const file = input.files?.[0];
    input.value = ""; // the same file may be chosen again
    if (file) void this.guard(() => use(file));
  }

  /** Runs something and shows what goes wrong with it. */
  private async guard(run: () => Promise<void>): Promise<void> {
    this.news.trouble(null);
    try {
      await run();
    } catch (error) {
      if (!(error instanceof CallError)) {
        this.news.trouble(error instanceof Error ? error.message : String(error));
        this.update();
        return;
      }
      const { kind, problem, help } = error.trouble;
      if (kind === "no-gpu") this.on.noGpu(error.trouble);
      else if (kind === "cancelled") this.news.say("Cancelled. The mask is as it was.");
      else this.news.trouble(`${problem}. ${help}`);
      if (kind === "failed") this.update();
    }
  }

  private async openDropped(file: File | null): Promise<void> {
    if (file) await this.openFile(file);
    else this.news.trouble("That was no file. Save the picture first, and then drop its file here.");
  }

  private async openFile(file: File): Promise<void> {
    if (this.phase === "filling") {
      this.news.trouble("A hole is being filled. Cancel that before you open another picture.");
      return;
    }
    this.news.say("Reading the picture …");
    await this.show(file.name.replace(/\.[^.]*$/, "") || "picture", await decode(file));
  }

  private async show(name: string, picture: RgbaPicture, changed = false): Promise<void> {
    const bitmap = await toBitmap(picture);
    const editing = new Editing(picture.width, picture.height, (rect) => {
      this.stage.maskChanged(rect);
      if (!editing.stroking) this.maskEdited();
    });
    this.closePictures();
    this.open = { name, picture, bitmap, editing, changed };
    this.toolbar.suit(picture);
    this.enter("edit");
    this.maskEdited();
    if (this.gpu !== "ready") await this.prepare();
  }

  private loadMask(mask: MaskPicture): void {
    if (!this.open) return;
    this.open.editing.load(mask);
    const { width, height } = this.open.picture;
    if (mask.width === width && mask.height === height) return;
    this.news.say(`${this.summary(this.open)} The mask's file is ${mask.width} × ${mask.height}: it was stretched.`);
  }

  private closePictures(): void {
    this.open?.bitmap.close();
    this.result?.bitmap.close();
    this.result = null;
  }

  /** Opens the GPU while the visitor paints, so that the fill starts at once. */
  private async prepare(): Promise<void> {
    this.gpu = "opening";
    this.update();
    try {
      const { adapter } = await this.client.call("prepare", null, { onEvent: (event) => this.news.show(event) });
      this.gpu = "ready";
      this.on.adapter(adapter);
    } catch (error) {
      this.gpu = error instanceof CallError && error.trouble.kind === "no-gpu" ? "none" : "failed";
      throw error;
    } finally {
      this.news.idle();
      this.update();
    }
  }

  private maskEdited(): void {
    this.update();
    if (!this.open || this.open.editing.stroking) return;
    this.unsaved = this.open.editing.canUndo || this.open.changed;
    const { width, height, values } = this.open.editing.mask;
    this.on.mask({ width, height, values });
  }

  private enter(phase: Phase): void {
    this.phase = phase;
    const { open, result } = this;
    if (open) {
      const scene = result
        ? ({ kind: "compare", before: open.bitmap, after: result.bitmap } as const)
        : ({ kind: "edit", bitmap: open.bitmap, editing: open.editing, locked: phase === "filling" } as const);
      this.stage.show(scene, open.picture);
    }
    this.update();
  }

  private async fill(): Promise<void> {
    const { open } = this;
    if (!open || open.editing.mask.holes === 0) return;
    open.editing.endStroke();
    if (this.gpu !== "ready") await this.prepare();
    this.fillStop = new AbortController();
    this.enter("filling");
    const { width, height, values } = open.editing.mask;
    try {
      const filled = await this.client.call(
        "fill",
        { picture: open.picture, mask: { width, height, values } },
        { signal: this.fillStop.signal, onEvent: (event: Progress) => this.news.show(event) },
      );
      this.result = { ...filled, bitmap: await toBitmap(filled.picture) };
      this.unsaved = true;
      this.toolbar.placeSplit(middleOfHole(open.editing.mask));
      this.enter("result");
      this.news.idle();
      const passes = filled.passes === 1 ? "1 pass" : `${filled.passes} passes`;
      this.news.say(`Filled in ${filled.seconds.toFixed(filled.seconds < 10 ? 1 : 0)} s, ${passes}.`);
    } finally {
      this.fillStop = null;
      this.news.idle();
      if (this.phase === "filling") this.enter("edit");
    }
  }

  private dropResult(): void {
    this.result?.bitmap.close();
    this.result = null;
    this.enter("edit");
    this.news.say("Back at the mask.");
  }

  private async keepResult(): Promise<void> {
    const { open, result } = this;
    if (!open || !result) return;
    await this.show(open.name, result.picture, true);
    this.news.say("Kept. Paint the next hole.");
  }

  private async save(): Promise<void> {
    if (!this.open) return;
    const picture = this.result?.picture ?? this.open.picture;
    this.news.say("Writing the PNG …"); // seconds, for the largest photos
    download(await this.client.call("encodePng", picture), `${this.open.name}.filled.png`);
    this.unsaved = false;
    this.news.say(`Saved ${this.open.name}.filled.png, ${sizeOf(picture)}.`);
  }

  private async saveMask(): Promise<void> {
    if (!this.open) return;
    download(await this.client.call("encodePng", maskToRgba(this.open.editing.mask)), `${this.open.name}.mask.png`);
    this.unsaved = this.open.changed;
  }

  /** Keyboards must not lose their place because the button under it went away. */
  private keepFocus(focused: Element | null): void {
    if (!(focused instanceof HTMLElement) || !(focused.hidden || (focused as HTMLButtonElement).disabled)) return;
    const next = { empty: "sample", edit: "canvas", filling: "cancel", result: "download" }[this.phase];
    byId(next, HTMLElement).focus({ preventScroll: true });
  }

  /** Shows what may be done now. */
  private update(): void {
    const { phase, open } = this;
    const focused = document.activeElement; // it is nobody's any more once its button is disabled
    this.root.dataset["phase"] = phase;
    const editing = phase === "edit" ? open?.editing : undefined;
    const hole = (open?.editing.mask.holes ?? 0) > 0;
    byId("welcome", HTMLElement).hidden = phase !== "empty";
    byId("compare", HTMLElement).hidden = phase !== "result";
    this.toolbar.enable({
      edit: editing !== undefined,
      undo: editing?.canUndo ?? false,
      redo: editing?.canRedo ?? false,
      hole: editing !== undefined && hole,
      open: phase !== "filling",
    });
    button("cancel").hidden = phase !== "filling";
    for (const id of ["back", "continue"]) button(id).hidden = phase !== "result";
    button("download").hidden = !(phase === "result" || (phase === "edit" && open?.changed));
    button("download").className = phase === "result" ? "primary" : "plain";
    const fill = button("fill");
    fill.hidden = phase === "result" || phase === "filling";
    fill.disabled = !(
      open &&
      editing &&
      hole &&
      holeShare(open) < 1 &&
      (this.gpu === "ready" || this.gpu === "failed")
    );
    if (phase === "edit" && open) this.news.say(this.summary(open));
    this.keepFocus(focused);
  }

  private summary(open: Open): string {
    const share = holeShare(open);
    const percent = share < 0.0005 ? "less than 0.1" : (100 * share).toFixed(share < 0.1 ? 1 : 0);
    const what =
      share === 0
        ? "paint over what should go"
        : share === 1
          ? "the hole is all of it; leave something to go by"
          : `the hole is ${percent} % of it`;
    return `${sizeOf(open.picture)}: ${what}.`;
  }
}
