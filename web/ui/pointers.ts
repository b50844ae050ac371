/** Mouse, pen and fingers on the stage. */
import type { Point } from "../app/mask.js";
import type { Stage } from "./stage.js";

type Action = "stroke" | "pan" | "split" | "pinch" | null;

const WHEEL_SPEED = 0.0018;
/** A pinch on a touchpad comes as a wheel with small steps. */
const PINCH_SPEED = 0.01;

/** Fast strokes have more points than frames; older Safaris, and pages that came over http, give the last one only. */
function pointsOf(event: PointerEvent): readonly PointerEvent[] {
  const events = (event as Partial<PointerEvent>).getCoalescedEvents?.call(event) ?? [];
  return events.length > 0 ? events : [event];
}

export class Pointers {
  private readonly down = new Map<number, Point>();
  private action: Action = null;
  private space = false;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly stage: Stage,
  ) {
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    canvas.addEventListener("pointerup", (event) => this.onUp(event));
    canvas.addEventListener("pointercancel", (event) => this.onUp(event));
    canvas.addEventListener("pointerleave", () => stage.hover(null));
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => {
      if (event.key !== " ") return;
      this.space = true;
      canvas.classList.add("panning");
      event.preventDefault();
    });
    const release = () => {
      this.space = false;
      canvas.classList.remove("panning");
    };
    canvas.addEventListener("keyup", (event) => event.key === " " && release());
    canvas.addEventListener("blur", release);
  }

  private at(event: MouseEvent): Point {
    const { left, top } = this.canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  private onDown(event: PointerEvent): void {
    const at = this.at(event);
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, at);
    if (this.down.size > 1) {
      if (this.action === "stroke") this.stage.cancelStroke();
      this.action = "pinch";
      return;
    }
    this.action = this.choose(event);
    if (this.action === "stroke") this.stage.beginStroke(at);
    if (this.action === "split") this.stage.moveSplit(at);
  }

  private choose(event: PointerEvent): Action {
    const { stage } = this;
    if (event.button === 1 || this.space || stage.tool === "move") return "pan";
    if (event.button !== 0) return null;
    if (stage.comparing) return "split";
    return stage.editable ? "stroke" : "pan";
  }

  private onMove(event: PointerEvent): void {
    const at = this.at(event);
    const last = this.down.get(event.pointerId);
    if (!last) {
      this.stage.hover(at);
      return;
    }
    if (this.action === "pinch") this.pinch(event.pointerId, last, at);
    this.down.set(event.pointerId, at);
    if (this.action === "stroke") {
      for (const each of pointsOf(event)) this.stage.strokeTo(this.at(each));
    }
    if (this.action === "pan") this.stage.pan(at.x - last.x, at.y - last.y);
    if (this.action === "split") this.stage.moveSplit(at);
    this.stage.hover(event.pointerType === "touch" ? null : at);
  }

  /** One of two fingers moved: what was under both stays under both. */
  private pinch(id: number, from: Point, to: Point): void {
    const other = [...this.down].find(([key]) => key !== id)?.[1];
    if (!other) return;
    const distance = (p: Point) => Math.max(1, Math.hypot(p.x - other.x, p.y - other.y));
    this.stage.pan((to.x - from.x) / 2, (to.y - from.y) / 2);
    this.stage.zoom(distance(to) / distance(from), { x: (to.x + other.x) / 2, y: (to.y + other.y) / 2 });
  }

  private onUp(event: PointerEvent): void {
    this.down.delete(event.pointerId);
    if (this.action === "stroke") this.stage.endStroke();
    // The finger that stays after a pinch must not draw.
    if (this.down.size === 0) this.action = null;
    else this.action = "pinch";
  }

  private onWheel(event: WheelEvent): void {
    const { stage } = this;
    if (!stage.editable && !stage.comparing) return;
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    // Whoever only scrolls past has not begun to work on the picture; and what cannot get smaller lets the page scroll on.
    const working = document.activeElement === this.canvas;
    if (!event.ctrlKey && (!working || (event.deltaY > 0 && stage.viewport.isFitted))) return;
    event.preventDefault();
    const speed = event.ctrlKey ? PINCH_SPEED : WHEEL_SPEED;
    stage.zoom(Math.exp(-event.deltaY * lines * speed), this.at(event));
  }
}
