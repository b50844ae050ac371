/** The buttons and sliders over and under the stage that change only the view and the brush, and the keys for them. */
import type { Size } from "../app/viewport.js";
import { button, byId } from "./dom.js";
import type { Stage, Tool } from "./stage.js";

const TOOLS: readonly Tool[] = ["brush", "erase", "move"];
const ZOOM = 1.4;

/** What may be done now. */
interface Possible {
  readonly edit: boolean;
  readonly undo: boolean;
  readonly redo: boolean;
  readonly hole: boolean;
  readonly open: boolean;
}

export class Toolbar {
  onUndo: () => void = () => undefined;
  onRedo: () => void = () => undefined;
  private readonly brush = byId("brush-size", HTMLInputElement);
  private readonly split = byId("split", HTMLInputElement);

  constructor(
    private readonly stage: Stage,
    private readonly root: HTMLElement,
  ) {
    for (const tool of TOOLS) button(`tool-${tool}`).onclick = () => this.choose(tool);
    this.brush.oninput = () => this.setBrush(Number(this.brush.value));
    this.split.oninput = () => {
      stage.split = Number(this.split.value) / 100;
      stage.redraw();
    };
    stage.onSplit = (split) => (this.split.value = String(Math.round(100 * split)));
    const zoom = byId("zoom-value", HTMLOutputElement);
    stage.onZoom = (scale) => {
      const text = `${Math.round(100 * scale)} %`;
      if (zoom.value !== text) zoom.value = text; // screen readers say what is written, changed or not
    };
    button("zoom-in").onclick = () => stage.zoom(ZOOM);
    button("zoom-out").onclick = () => stage.zoom(1 / ZOOM);
    button("zoom-fit").onclick = () => stage.fit();
    button("undo").onclick = () => this.onUndo();
    button("redo").onclick = () => this.onRedo();
    document.addEventListener("keydown", (event) => this.onShortcut(event));
    byId("canvas", HTMLCanvasElement).addEventListener("keydown", (event) => this.onLetter(event));
  }

  private choose(tool: Tool): void {
    this.stage.tool = tool;
    this.root.dataset["tool"] = tool;
    for (const each of TOOLS) button(`tool-${each}`).setAttribute("aria-pressed", String(each === tool));
    this.stage.redraw();
  }

  private setBrush(size: number): void {
    this.stage.brush = size;
    this.brush.value = String(size);
    byId("brush-size-value", HTMLElement).textContent = String(size);
    this.stage.redraw();
  }

  /** Sizes of the brush that suit a picture. */
  suit({ width, height }: Size): void {
    const short = Math.min(width, height);
    this.brush.max = String(Math.max(8, Math.round(short / 2)));
    this.setBrush(Math.max(2, Math.round(short / 12)));
  }

  /** @param share of the picture's width that shows before */
  placeSplit(share: number): void {
    this.stage.split = share;
    this.split.value = String(Math.round(100 * share));
  }

  enable(can: Possible): void {
    for (const tool of TOOLS) button(`tool-${tool}`).disabled = !can.edit;
    for (const id of ["invert", "load-mask"]) button(id).disabled = !can.edit;
    for (const id of ["clear", "save-mask"]) button(id).disabled = !can.hole;
    this.brush.disabled = !can.edit;
    button("undo").disabled = !can.undo;
    button("redo").disabled = !can.redo;
    button("open").disabled = !can.open;
  }

  private onShortcut(event: KeyboardEvent): void {
    if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    const action = key === "z" && !event.shiftKey ? "undo" : key === "y" || key === "z" ? "redo" : null;
    if (!action) return;
    event.preventDefault();
    button(action).click(); // does nothing where it is disabled
  }

  /** Keys without a modifier count only where the picture has the focus. */
  private onLetter(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey || this.brush.disabled) return;
    const size = Number(this.brush.value);
    if (event.key === "b") this.choose("brush");
    else if (event.key === "e") this.choose("erase");
    else if (event.key === "[") this.setBrush(Math.max(2, Math.round(size * 0.8)));
    else if (event.key === "]") this.setBrush(Math.min(Number(this.brush.max), Math.round(size * 1.25 + 1)));
  }
}
