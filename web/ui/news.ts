/** The line under the stage: status, progress, trouble. */
import type { Progress } from "../app/calls.js";
import { byId } from "./dom.js";

export class News {
  private readonly status = byId("status", HTMLElement);
  private readonly alert = byId("trouble", HTMLElement);
  private readonly box = byId("progress", HTMLElement);
  private readonly bar = byId("progress-bar", HTMLProgressElement);
  /** Something is going on, which matters more than what could be done. */
  private busy = false;

  /** A sentence about what is; while something goes on it waits unsaid. */
  say(text: string): void {
    if (!this.busy && this.status.textContent !== text) this.status.textContent = text;
  }

  /** What goes on. */
  show(event: Progress): void {
    this.busy = true;
    this.box.hidden = false;
    if (event.kind === "notice") {
      this.trouble(event.text);
      return;
    }
    // One pass has no middle to show.
    const share = event.kind === "stage" ? event.share : event.total > 1 ? event.done / event.total : undefined;
    if (share === undefined) this.bar.removeAttribute("value");
    else this.bar.value = share;
    if (event.kind === "stage") this.status.textContent = `${event.text} …`;
    else
      this.status.textContent =
        event.total > 1 ? `Filling: pass ${Math.min(event.done + 1, event.total)} of ${event.total} …` : "Filling …";
  }

  /** Nothing goes on any more. */
  idle(): void {
    this.busy = false;
    this.box.hidden = true;
  }

  trouble(text: string | null): void {
    this.alert.hidden = text === null;
    this.alert.textContent = text ?? "";
    if (text !== null) this.status.textContent = "";
  }
}
