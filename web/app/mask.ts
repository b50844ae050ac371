/** The mask that the visitor paints, at the picture's full size. No DOM in here. */
import type { MaskPicture } from "../../src/pconv/picture.js";

export interface Point {
  readonly x: number;
  readonly y: number;
}

/** Whole pixels; `right` and `bottom` are not part of it. */
export interface Rect {
  readonly left: number;
  readonly top: number;
  readonly right: number;
  readonly bottom: number;
}

export const union = (a: Rect, b: Rect): Rect => ({
  left: Math.min(a.left, b.left),
  top: Math.min(a.top, b.top),
  right: Math.max(a.right, b.right),
  bottom: Math.max(a.bottom, b.bottom),
});

export const isEmpty = ({ left, top, right, bottom }: Rect): boolean => left >= right || top >= bottom;

/** A mask that changes: 1 = valid, 0 = hole. Starts without a hole. */
export class MaskLayer implements MaskPicture {
  readonly values: Uint8Array<ArrayBuffer>;
  /** How many pixels are hole. */
  holes = 0;

  constructor(
    readonly width: number,
    readonly height: number,
  ) {
    this.values = new Uint8Array(width * height).fill(1);
  }

  get whole(): Rect {
    return { left: 0, top: 0, right: this.width, bottom: this.height };
  }

  /**
   * Sets every pixel whose centre is within `radius` of the line between two points (of one point, if they are equal).
   * @param value 0 paints hole, 1 erases it
   * @returns what may have changed
   */
  stroke(from: Point, to: Point, radius: number, value: 0 | 1): Rect {
    const rect: Rect = {
      left: Math.max(0, Math.floor(Math.min(from.x, to.x) - radius)),
      top: Math.max(0, Math.floor(Math.min(from.y, to.y) - radius)),
      right: Math.min(this.width, Math.ceil(Math.max(from.x, to.x) + radius) + 1),
      bottom: Math.min(this.height, Math.ceil(Math.max(from.y, to.y) + radius) + 1),
    };
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const length = dx * dx + dy * dy;
    for (let y = rect.top; y < rect.bottom; y++) {
      for (let x = rect.left; x < rect.right; x++) {
        const [px, py] = [x + 0.5 - from.x, y + 0.5 - from.y];
        const t = length === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / length));
        const [ex, ey] = [px - t * dx, py - t * dy];
        if (ex * ex + ey * ey > radius * radius) continue;
        const at = y * this.width + x;
        this.holes += this.values[at] - value;
        this.values[at] = value;
      }
    }
    return rect;
  }

  /** The values in a rectangle, row by row. */
  cut({ left, top, right, bottom }: Rect): Uint8Array<ArrayBuffer> {
    const values = new Uint8Array((right - left) * (bottom - top));
    for (let y = top; y < bottom; y++) {
      values.set(this.values.subarray(y * this.width + left, y * this.width + right), (y - top) * (right - left));
    }
    return values;
  }

  /** The reverse of {@link MaskLayer.cut}. */
  paste({ left, top, right, bottom }: Rect, values: Uint8Array): void {
    for (let y = top; y < bottom; y++) {
      for (let x = left; x < right; x++) {
        const at = y * this.width + x;
        const value = values[(y - top) * (right - left) + x - left];
        this.holes += this.values[at] - value;
        this.values[at] = value;
      }
    }
  }
}
