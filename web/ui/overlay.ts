/** The mask as a tint over the picture. */
import type { MaskLayer, Rect } from "../app/mask.js";

/** Longest side of the tint; a larger mask is shown at a fraction of its size. */
const LONGEST = 2048;
const TINT = [255, 70, 104, 165] as const;

export class Overlay {
  readonly canvas = document.createElement("canvas");
  private readonly context = this.canvas.getContext("2d")!;
  private readonly step: number;

  constructor(private readonly mask: MaskLayer) {
    this.step = Math.max(1, Math.max(mask.width, mask.height) / LONGEST);
    this.canvas.width = Math.ceil(mask.width / this.step);
    this.canvas.height = Math.ceil(mask.height / this.step);
  }

  update(rect: Rect): void {
    const { step, mask } = this;
    const [left, top] = [Math.floor(rect.left / step), Math.floor(rect.top / step)];
    const width = Math.min(this.canvas.width, Math.ceil(rect.right / step)) - left;
    const height = Math.min(this.canvas.height, Math.ceil(rect.bottom / step)) - top;
    if (width <= 0 || height <= 0) return;
    const image = new ImageData(width, height);
    for (let y = 0; y < height; y++) {
      const line = Math.min(mask.height - 1, Math.floor((top + y + 0.5) * step)) * mask.width;
      for (let x = 0; x < width; x++) {
        const at = line + Math.min(mask.width - 1, Math.floor((left + x + 0.5) * step));
        if (mask.values[at] === 0) image.data.set(TINT, 4 * (y * width + x));
      }
    }
    this.context.putImageData(image, left, top);
  }
}
