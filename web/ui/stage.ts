/** The canvas: draws picture, mask and comparison, and turns pointers and keys into strokes, zoom and pan. */
import type { Editing } from "../app/editing.js";
import type { Point, Rect } from "../app/mask.js";
import { type Size, Viewport } from "../app/viewport.js";
import { sized } from "./dom.js";
import { Overlay } from "./overlay.js";
import { Pointers } from "./pointers.js";

export type Tool = "brush" | "erase" | "move";

/** What is on the stage. */
export type Scene =
  | { readonly kind: "edit"; readonly bitmap: ImageBitmap; readonly editing: Editing; readonly locked: boolean }
  | { readonly kind: "compare"; readonly before: ImageBitmap; readonly after: ImageBitmap };

export class Stage {
  tool: Tool = "brush";
  /** Diameter in pixels of the picture. */
  brush = 40;
  /** Where before ends and after begins, 0..1 of the picture's width. */
  split = 0.5;
  onSplit: (split: number) => void = () => undefined;
  onEdit: () => void = () => undefined;
  onZoom: (scale: number) => void = () => undefined;
  readonly viewport = new Viewport();
  private scene: Scene | null = null;
  private size: Size = { width: 1, height: 1 };
  private overlay: Overlay | null = null;
  /** Pointer or keyboard brush, in picture pixels. */
  private cursor: Point | null = null;
  private penDown = false;
  private frame = 0;

  constructor(private readonly canvas: HTMLCanvasElement) {
    new ResizeObserver(() => this.measure()).observe(canvas);
    new Pointers(canvas, this);
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    canvas.addEventListener("focus", () => {
      // By keyboard, the brush must be seen before it moves.
      if (canvas.matches(":focus-visible")) this.cursor ??= { x: this.size.width / 2, y: this.size.height / 2 };
      this.redraw();
    });
    canvas.addEventListener("blur", () => {
      this.liftPen();
      this.hover(null);
    });
    this.measure();
  }

  private measure(): void {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.viewport.resize({ width, height });
    this.redraw();
  }

  /** @param size of the picture in its own pixels; the view stays if it is that of the last scene */
  show(scene: Scene | null, size: Size): void {
    const sameSize = this.scene && size.width === this.size.width && size.height === this.size.height;
    const editing = scene?.kind === "edit" ? scene.editing : null;
    if (editing && (this.scene?.kind !== "edit" || this.scene.editing !== editing)) {
      this.overlay = new Overlay(editing.mask);
      this.overlay.update(editing.mask.whole);
    }
    this.scene = scene;
    this.size = size;
    this.liftPen();
    if (!sameSize) this.viewport.show(size);
    this.redraw();
  }

  /** The editing that may change now, or null. */
  get editable(): Editing | null {
    return this.scene?.kind === "edit" && !this.scene.locked ? this.scene.editing : null;
  }
  get comparing(): boolean {
    return this.scene?.kind === "compare";
  }

  maskChanged(rect: Rect): void {
    this.overlay?.update(rect);
    this.redraw();
  }

  // ---------------------------------------------------------------- what pointers and keys do

  beginStroke(at: Point): void {
    this.editable?.beginStroke(this.viewport.toPicture(at), this.brush / 2, this.tool === "erase" ? 1 : 0);
  }
  strokeTo(at: Point): void {
    this.editable?.strokeTo(this.viewport.toPicture(at));
  }
  endStroke(): void {
    this.editable?.endStroke();
    this.onEdit();
  }
  cancelStroke(): void {
    this.editable?.cancelStroke();
  }
  hover(at: Point | null): void {
    this.cursor = at && this.viewport.toPicture(at);
    this.redraw();
  }
  moveSplit(at: Point): void {
    this.split = Math.min(1, Math.max(0, this.viewport.toPicture(at).x / this.size.width));
    this.onSplit(this.split);
    this.redraw();
  }
  zoom(factor: number, at?: Point): void {
    this.viewport.zoom(factor, at);
    this.redraw();
  }
  pan(dx: number, dy: number): void {
    this.viewport.pan(dx, dy);
    this.redraw();
  }
  fit(): void {
    this.viewport.fit();
    this.redraw();
  }

  private liftPen(): void {
    if (this.penDown) this.endStroke();
    this.penDown = false;
  }

  private onKey(event: KeyboardEvent): void {
    const { editable } = this;
    if (event.ctrlKey || event.metaKey || event.altKey || !editable) return;
    const step = Math.max(1, this.brush / (event.shiftKey ? 1 : 4));
    const moves: Record<string, readonly [number, number]> = {
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    };
    const { width, height } = this.size;
    const at = this.cursor ?? { x: width / 2, y: height / 2 };
    const move = moves[event.key];
    if (move) {
      const within = (v: number, length: number) => Math.min(length, Math.max(0, v));
      this.cursor = { x: within(at.x + move[0], width), y: within(at.y + move[1], height) };
      if (this.penDown) editable.strokeTo(this.cursor);
      this.viewport.reveal(this.cursor);
    } else if (event.key === "Enter") {
      if (this.penDown) this.liftPen();
      else {
        this.cursor = at;
        editable.beginStroke(at, this.brush / 2, this.tool === "erase" ? 1 : 0);
        this.penDown = true;
      }
    } else if (event.key === "Escape") this.liftPen();
    else if (event.key === "+") this.zoom(1.25);
    else if (event.key === "-") this.zoom(0.8);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
    this.redraw();
  }

  // ---------------------------------------------------------------- drawing

  redraw(): void {
    if (this.frame === 0) this.frame = requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    this.frame = 0;
    const { context } = sized(this.canvas);
    const { scene, viewport } = this;
    this.onZoom(viewport.scale);
    if (!scene) return;
    const { scale, x, y } = viewport;
    const [width, height] = [this.size.width * scale, this.size.height * scale];
    // Enlarged pixels stay pixels once they are large enough to be told apart.
    context.imageSmoothingEnabled = scale < 3;
    context.imageSmoothingQuality = "high";
    if (scene.kind === "edit") {
      context.drawImage(scene.bitmap, x, y, width, height);
      if (this.overlay) context.drawImage(this.overlay.canvas, x, y, width, height);
      if (this.cursor && this.editable && this.tool !== "move") this.drawBrush(context);
      return;
    }
    context.drawImage(scene.after, x, y, width, height);
    const at = x + this.split * width;
    context.save();
    context.beginPath();
    context.rect(x, y, at - x, height);
    context.clip();
    context.clearRect(x, y, width, height);
    context.drawImage(scene.before, x, y, width, height);
    context.restore();
    drawDivider(context, at, y, height);
  }

  private drawBrush(context: CanvasRenderingContext2D): void {
    const { scale, x, y } = this.viewport;
    const { x: px, y: py } = this.cursor!;
    for (const [colour, width] of [
      ["rgb(0 0 0 / 60%)", 3],
      ["#fff", 1.5],
    ] as const) {
      // prettier-ignore
      context.beginPath();
      context.arc(px * scale + x, py * scale + y, Math.max(1, (this.brush / 2) * scale), 0, 2 * Math.PI);
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke();
    }
  }
}

function drawDivider(context: CanvasRenderingContext2D, x: number, top: number, height: number): void {
  context.fillStyle = "#fff";
  context.shadowColor = "rgb(0 0 0 / 45%)";
  context.shadowBlur = 6;
  context.fillRect(x - 1, top, 2, height);
  const middle = top + height / 2;
  context.beginPath();
  context.arc(x, middle, 16, 0, 2 * Math.PI);
  context.fill();
  context.shadowBlur = 0;
  context.strokeStyle = "#30343a";
  context.lineWidth = 2;
  context.lineCap = context.lineJoin = "round";
  for (const side of [-1, 1]) {
    context.beginPath();
    context.moveTo(x + side * 5, middle - 5);
    context.lineTo(x + side * 9, middle);
    context.lineTo(x + side * 5, middle + 5);
    context.stroke();
  }
}
