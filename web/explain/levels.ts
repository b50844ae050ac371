/** The visitor's mask after each level of the network's encoder. */
import { CallError } from "../app/calls.js";
import type { Client } from "../app/client.js";
import { holeRatio, type MaskPicture, resizeMask } from "../../src/pconv/picture.js";
import { generateMask } from "../../src/pconv/randomMask.js";
import { Rng } from "../../src/pconv/rng.js";
import { byId } from "../ui/dom.js";

/** Longest side at which the levels are computed: what the network sees of a picture at once. */
const LONGEST = 512;
/** Quiet time after a change before the levels are computed again. */
const SETTLE_MS = 150;

const INK = { valid: [246, 245, 242, 255], hole: [217, 43, 82, 255] } as const;

/** At most {@link LONGEST} pixels long. */
function seen(mask: MaskPicture): MaskPicture {
  const scale = Math.min(1, LONGEST / Math.max(mask.width, mask.height));
  const side = (length: number) => Math.max(1, Math.round(length * scale));
  return resizeMask(mask, side(mask.width), side(mask.height));
}

function drawMask(canvas: HTMLCanvasElement, { width, height, values }: MaskPicture): void {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0; i < values.length; i++) image.data.set(values[i] === 1 ? INK.valid : INK.hole, 4 * i);
  canvas.getContext("2d")!.putImageData(image, 0, 0);
}

export class LevelsView {
  private readonly list = byId("levels", HTMLOListElement);
  private readonly note = byId("levels-note", HTMLElement);
  private timer: ReturnType<typeof setTimeout> | undefined;
  private latest = 0;

  constructor(private readonly client: Client) {
    void this.compute(generateMask(LONGEST, LONGEST, Rng.of(6)), "An example mask; paint one of your own above");
  }

  /** Shows the levels of the visitor's mask, as soon as it stays the same for a moment. */
  show(mask: MaskPicture): void {
    clearTimeout(this.timer);
    if (!mask.values.includes(0)) return; // what was shown last tells more than eight empty squares
    this.timer = setTimeout(() => void this.compute(seen(mask), "Your mask"), SETTLE_MS);
  }

  private async compute(mask: MaskPicture, whose: string): Promise<void> {
    const turn = ++this.latest;
    try {
      const { masks, by } = await this.client.call("levels", mask);
      if (turn !== this.latest) return;
      this.draw(masks);
      this.note.textContent = `${whose}, ${by}. Light is valid, red is hole.`;
    } catch (error) {
      this.note.textContent = error instanceof CallError ? error.trouble.problem : String(error);
    }
  }

  private draw(masks: readonly MaskPicture[]): void {
    this.list.replaceChildren(
      ...masks.map((mask, level) => {
        const item = document.createElement("li");
        const canvas = document.createElement("canvas");
        drawMask(canvas, mask);
        const share = 100 * holeRatio(mask);
        const text = share === 0 ? "no hole left" : `${share.toFixed(share < 10 ? 1 : 0)} % hole`;
        const name = level === 0 ? "The mask" : `Level ${level}`;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `${name}: ${text}`);
        const title = document.createElement("p");
        title.textContent = name;
        const caption = document.createElement("p");
        caption.className = "soft";
        caption.textContent = `${mask.width} × ${mask.height}`;
        const holes = caption.cloneNode() as HTMLParagraphElement;
        holes.textContent = text;
        item.append(canvas, title, caption, holes);
        return item;
      }),
    );
  }
}
