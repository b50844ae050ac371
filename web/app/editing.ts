/** Changes of the mask that can be undone. No DOM in here. */
import { type MaskPicture, resizeMask } from "../../src/pconv/picture.js";
import { isEmpty, MaskLayer, type Point, type Rect, union } from "./mask.js";

interface Edit {
  readonly rect: Rect;
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

/** What undoing may keep; the oldest edits are forgotten first. */
const HISTORY_BYTES = 128 * 2 ** 20;

/** Mask, undo and redo of one picture. `onChange` hears of every rectangle that changed. */
export class Editing {
  readonly mask: MaskLayer;
  private done: Edit[] = [];
  private undone: Edit[] = [];
  private stroke: { before: Uint8Array; rect: Rect | null; last: Point; radius: number; value: 0 | 1 } | null = null;

  constructor(
    width: number,
    height: number,
    private readonly onChange: (rect: Rect) => void,
  ) {
    this.mask = new MaskLayer(width, height);
  }

  get canUndo(): boolean {
    return this.done.length > 0;
  }
  get canRedo(): boolean {
    return this.undone.length > 0;
  }
  get stroking(): boolean {
    return this.stroke !== null;
  }

  /** @param value 0 paints hole, 1 erases it */
  beginStroke(at: Point, radius: number, value: 0 | 1): void {
    this.endStroke();
    this.stroke = { before: this.mask.values.slice(), rect: null, last: at, radius, value };
    this.strokeTo(at);
  }

  strokeTo(to: Point): void {
    if (!this.stroke) return;
    const { last, radius, value } = this.stroke;
    const rect = this.mask.stroke(last, to, radius, value);
    this.stroke.last = to;
    if (isEmpty(rect)) return;
    this.stroke.rect = this.stroke.rect ? union(this.stroke.rect, rect) : rect;
    this.onChange(rect);
  }

  endStroke(): void {
    const { stroke } = this;
    this.stroke = null;
    if (stroke?.rect) this.remember(stroke.rect, stroke.before);
  }

  /** Takes back a stroke that turned out to be the first finger of a pinch. */
  cancelStroke(): void {
    const { stroke } = this;
    this.stroke = null;
    if (!stroke?.rect) return;
    this.mask.paste(this.mask.whole, stroke.before);
    this.onChange(stroke.rect);
  }

  clear(): void {
    this.replace(() => 1);
  }

  invert(): void {
    this.replace((value) => 1 - value);
  }

  /** Puts a mask of any size in place of the present one. */
  load(mask: MaskPicture): void {
    const { width, height } = this.mask;
    const { values } = resizeMask(mask, width, height);
    this.replace((_, i) => values[i]);
  }

  private replace(value: (old: number, i: number) => number): void {
    this.endStroke();
    const before = this.mask.values.slice();
    this.mask.paste(this.mask.whole, before.map(value));
    this.remember(this.mask.whole, before);
    this.onChange(this.mask.whole);
  }

  /** @param whole all values before the change */
  private remember(rect: Rect, whole: Uint8Array): void {
    const { left, top, right, bottom } = rect;
    const before = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y++) {
      const line = y * this.mask.width;
      before.set(whole.subarray(line + left, line + right), (y - top) * (right - left));
    }
    this.done.push({ rect, before, after: this.mask.cut(rect) });
    this.undone = [];
    let bytes = this.done.reduce((sum, edit) => sum + 2 * edit.before.length, 0);
    while (bytes > HISTORY_BYTES && this.done.length > 1) bytes -= 2 * this.done.shift()!.before.length;
  }

  undo(): void {
    this.endStroke();
    const edit = this.done.pop();
    if (!edit) return;
    this.undone.push(edit);
    this.mask.paste(edit.rect, edit.before);
    this.onChange(edit.rect);
  }

  redo(): void {
    const edit = this.undone.pop();
    if (!edit) return;
    this.done.push(edit);
    this.mask.paste(edit.rect, edit.after);
    this.onChange(edit.rect);
  }
}
