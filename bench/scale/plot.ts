/** The picture of the predictions: efficiency against ranks, one panel for each time of a step, one line for each network. */
import { COLOURS, Drawing } from "../drawing.js";
import { INTERCONNECTS, type Link, networkStep, predict } from "./model.js";

/** Ranks that are predicted. */
export const RANKS: readonly number[] = [2, 4, 8, 16, 32, 64, 128, 256, 512];
/** Seconds of one rank's step that are predicted for. */
export const STEP_SECONDS: readonly number[] = [0.1, 0.5, 2];
/** The network whose gradients are exchanged: the paper's, at 512x512. */
export const SIZE = 512;

const PANEL = { width: 300, height: 250, gap: 40 };
const FRAME = { left: 62, top: 62, bottom: 112 };

/** The picture as SVG. */
export function scalingSvg(hostBytesPerSecond: number): string {
  const width = FRAME.left + STEP_SECONDS.length * (PANEL.width + PANEL.gap);
  const height = FRAME.top + PANEL.height + FRAME.bottom;
  const drawing = new Drawing(width, height);
  const bytes = networkStep(1, SIZE).buckets.reduce((sum, bucket) => sum + bucket.bytes, 0);
  drawing.text(FRAME.left, 24, `Predicted efficiency on many ranks, batch per rank kept: ${Math.round(bytes / 1e6)} MB of gradients a step`, 'font-size="16"'); // prettier-ignore
  const bottom = FRAME.top + PANEL.height;
  const Y = (efficiency: number) => bottom - efficiency * PANEL.height;
  STEP_SECONDS.forEach((seconds, panel) => {
    const left = FRAME.left + panel * (PANEL.width + PANEL.gap);
    const X = (ranks: number) =>
      left + (PANEL.width * Math.log2(ranks / RANKS[0])) / Math.log2(RANKS[RANKS.length - 1] / RANKS[0]);
    drawing.text(left, FRAME.top - 10, `a rank's own step: ${1000 * seconds} ms`);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      drawing.path(`M${left} ${Y(share)}H${left + PANEL.width}`, 'stroke="#ddd"');
      if (panel === 0) drawing.text(left - 8, Y(share) + 4, `${100 * share} %`, 'text-anchor="end"');
    }
    for (const ranks of RANKS) {
      drawing.path(`M${X(ranks).toFixed(1)} ${FRAME.top}V${bottom}`, 'stroke="#eee"');
      drawing.text(X(ranks), bottom + 18, String(ranks), 'text-anchor="middle"');
    }
    drawing.text(left + PANEL.width / 2, bottom + 38, "ranks", 'text-anchor="middle"');
    const step = networkStep(seconds, SIZE);
    INTERCONNECTS.forEach((link: Link, i) => {
      const at = RANKS.map(
        (ranks) => `${X(ranks).toFixed(1)} ${Y(predict(step, ranks, link, hostBytesPerSecond).efficiency).toFixed(1)}`,
      );
      drawing.path(`M${at.join("L")}`, `stroke="${COLOURS[i]}" stroke-width="2.5"`);
    });
  });
  INTERCONNECTS.forEach(({ name }, i) => {
    const x = FRAME.left + (i % 2) * 320;
    const y = bottom + 66 + 20 * Math.floor(i / 2);
    drawing.path(`M${x} ${y - 4}h24`, `stroke="${COLOURS[i]}" stroke-width="2.5"`);
    drawing.text(x + 32, y, name);
  });
  return drawing.toString();
}
