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
  private ready = false;

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
    takeDropsAndPastes((file) => void this.guard(() => this.openFile(file)));
    button("load-mask").onclick = () => mask.click();
    mask.onchange = () => this.take(mask, async (file) => this.open?.editing.load(maskFromRgba(await decode(file))));
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
        return;
      }
      const { kind, problem, help } = error.trouble;
      if (kind === "no-gpu") this.on.noGpu(error.trouble);
      else if (kind === "cancelled") this.news.say("Cancelled. The mask is as it was.");
      else this.news.trouble(`${problem}. ${help}`);
    }
  }

  private async openFile(file: File): Promise<void> {
    if (this.phase === "filling") return;
    this.news.say("Reading the picture");
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
    if (!this.ready) await this.prepare();
  }

  private closePictures(): void {
    this.open?.bitmap.close();
    this.result?.bitmap.close();
    this.result = null;
  }

  /** Opens the GPU while the visitor paints, so that the fill starts at once. */
  private async prepare(): Promise<void> {
    try {
      const { adapter } = await this.client.call("prepare", null, { onEvent: (event) => this.news.show(event) });
      this.ready = true;
      this.on.adapter(adapter);
    } finally {
      this.news.idle();
      this.update();
    }
  }

  private maskEdited(): void {
    this.update();
    if (!this.open || this.open.editing.stroking) return;
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
    download(await this.client.call("encodePng", picture), `${this.open.name}.filled.png`);
    this.news.say(`Saved ${this.open.name}.filled.png, ${sizeOf(picture)}.`);
  }

  private async saveMask(): Promise<void> {
    if (!this.open) return;
    download(await this.client.call("encodePng", maskToRgba(this.open.editing.mask)), `${this.open.name}.mask.png`);
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
    fill.disabled = !(editing && hole && this.ready);
    if (phase === "edit" && open) {
      const share = (100 * open.editing.mask.holes) / (open.picture.width * open.picture.height);
      const what = hole ? `the hole is ${share.toFixed(share < 10 ? 1 : 0)} % of it` : "paint over what should go";
      this.news.say(`${sizeOf(open.picture)}: ${what}.`);
    }
    this.keepFocus(focused);
  }
}
