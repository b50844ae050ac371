/** The live training demo: button, curve and samples. */
import { CallError, type TrainingNews } from "../app/calls.js";
import type { Client } from "../app/client.js";
import type { RgbaPicture } from "../app/pictures.js";
import { drawSample } from "../app/sample.js";
import { button, byId } from "../ui/dom.js";
import { LossChart } from "./chart.js";

export class TrainingView {
  private readonly start = button("train");
  private readonly status = byId("train-status", HTMLElement);
  private readonly strip = byId("strip", HTMLCanvasElement);
  private readonly chart = new LossChart(byId("loss-chart", HTMLCanvasElement));
  private stop: AbortController | null = null;
  private step = 0;

  /** @param picture what is open in the editor */
  constructor(
    private readonly client: Client,
    private readonly picture: () => RgbaPicture | null,
  ) {
    this.start.onclick = () => void this.toggle();
    document.addEventListener("visibilitychange", () => this.rest(document.hidden));
  }

  /** Nobody watches a hidden page: it leaves the GPU to others. */
  private rest(hidden: boolean): void {
    if (!this.stop) return;
    void this.client.call("pauseTraining", hidden);
    this.status.textContent = hidden ? `Resting after ${this.step} steps.` : `Step ${this.step}, going on …`;
  }

  private async toggle(): Promise<void> {
    if (this.stop) {
      this.stop.abort();
      return;
    }
    this.stop = new AbortController();
    this.step = 0;
    this.chart.clear();
    this.start.textContent = "Stop training";
    this.status.textContent = "Preparing …";
    try {
      await this.client.call("train", this.picture() ?? drawSample(), {
        signal: this.stop.signal,
        onEvent: (news) => this.hear(news),
      });
      this.status.textContent = `Finished ${this.step} steps, loss ${this.chart.mean.toFixed(3)}.`;
    } catch (error) {
      const trouble = error instanceof CallError ? error.trouble : null;
      if (trouble?.kind === "cancelled") {
        const loss = this.step > 0 ? `, loss ${this.chart.mean.toFixed(3)}` : "";
        this.status.textContent = `Stopped after ${this.step} steps${loss}.`;
      } else this.status.textContent = trouble ? `${trouble.problem}. ${trouble.help}` : String(error);
    } finally {
      void this.client.call("pauseTraining", false);
      this.stop = null;
      this.start.textContent = "Start training";
    }
  }

  private hear({ step, loss, secondsPerStep, strip }: TrainingNews): void {
    if (step <= this.step) this.chart.clear(); // it started over on another device
    this.step = step;
    this.chart.add(loss);
    if (!strip) return;
    this.drawStrip(step, strip);
    if (document.hidden) return; // the step that was under way when it was hidden
    const speed = secondsPerStep < 0.1 ? `${Math.round(1000 * secondsPerStep)} ms` : `${secondsPerStep.toFixed(1)} s`;
    this.status.textContent = `Step ${step}, loss ${this.chart.mean.toFixed(3)}, ${speed} a step.`;
  }

  private drawStrip(step: number, strip: RgbaPicture): void {
    byId("strip-figure", HTMLElement).hidden = false;
    [this.strip.width, this.strip.height] = [strip.width, strip.height];
    this.strip.getContext("2d")!.putImageData(new ImageData(strip.rgba, strip.width, strip.height), 0, 0);
    this.strip.setAttribute(
      "aria-label",
      `After ${step} ${step === 1 ? "step" : "steps"}: a picture with holes, what the small network draws, the holes filled, the original`,
    );
  }
}
