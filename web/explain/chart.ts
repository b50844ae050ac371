/** A line chart of the loss, drawn as it comes. */
import { colour, sized } from "../ui/dom.js";

const EDGE = { left: 44, right: 12, top: 14, bottom: 24 } as const;
/** Weight of the newest step in the running mean. */
const MEAN_SHARE = 0.06;

export class LossChart {
  private losses: number[] = [];
  private means: number[] = [];

  constructor(private readonly canvas: HTMLCanvasElement) {
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear(): void {
    this.losses = [];
    this.means = [];
    this.draw();
  }

  add(loss: number): void {
    const before = this.means.at(-1) ?? loss;
    this.losses.push(loss);
    this.means.push(before + (loss - before) * Math.max(MEAN_SHARE, 1 / this.losses.length));
    this.canvas.setAttribute(
      "aria-label",
      `Loss by step: ${this.losses[0].toFixed(2)} at the first, a running mean of ${this.means.at(-1)!.toFixed(3)} at step ${this.losses.length}`,
    );
    this.draw();
  }

  /** Running mean of the loss; NaN before the first step. */
  get mean(): number {
    return this.means.at(-1) ?? NaN;
  }

  private draw(): void {
    const { context, width, height } = sized(this.canvas);
    const [plotWidth, plotHeight] = [width - EDGE.left - EDGE.right, height - EDGE.top - EDGE.bottom];
    const [soft, line, accent] = [colour("--soft"), colour("--line"), colour("--accent")];
    const steps = Math.max(50, this.losses.length);
    // Logarithmic: the first steps would flatten all that follow.
    const [low, high] = [Math.min(0.1, ...this.means), Math.max(1, ...this.losses)].map(Math.log10);
    const x = (step: number) => EDGE.left + (plotWidth * step) / steps;
    const y = (loss: number) => EDGE.top + (plotHeight * (high - Math.log10(Math.max(loss, 1e-6)))) / (high - low);

    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = soft;
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.textAlign = "right";
    for (let power = Math.ceil(low); power <= Math.floor(high); power++) {
      const at = Math.round(y(10 ** power)) + 0.5;
      context.beginPath();
      context.moveTo(EDGE.left, at);
      context.lineTo(width - EDGE.right, at);
      context.stroke();
      context.fillText(String(10 ** power), EDGE.left - 8, at);
    }
    context.textAlign = "left";
    context.fillText("step 0", EDGE.left, height - 11);
    context.textAlign = "right";
    context.fillText(String(steps), width - EDGE.right, height - 11);

    const plot = (values: readonly number[], ink: string, thickness: number, alpha: number): void => {
      context.save();
      context.beginPath();
      context.rect(EDGE.left, 0, plotWidth, height - EDGE.bottom);
      context.clip();
      context.beginPath();
      values.forEach((v, i) => context.lineTo(x(i), y(v)));
      context.strokeStyle = ink;
      context.lineWidth = thickness;
      context.globalAlpha = alpha;
      context.lineJoin = "round";
      context.stroke();
      context.restore();
    };
    plot(this.losses, accent, 1, 0.4);
    plot(this.means, accent, 2.2, 1);
  }
}
