/** Where the picture lies on the stage: zoom and pan. No DOM in here. */
import type { Point } from "./mask.js";

export interface Size {
  readonly width: number;
  readonly height: number;
}

/** Largest zoom: 32 stage pixels for one of the picture. */
const MAX_SCALE = 32;
/** Small pictures that fit are enlarged up to this, tiny ones until their longer side has so many stage pixels. */
const FIT = { scale: 4, side: 160 };
/** Room around a picture that fits, in stage pixels. */
const MARGIN = 16;

/** Stage pixel = picture pixel * scale + offset. */
export class Viewport {
  scale = 1;
  x = 0;
  y = 0;
  private fitted = true;
  private stage: Size = { width: 1, height: 1 };
  private picture: Size = { width: 1, height: 1 };

  /** The scale at which the whole picture is seen. */
  get fitScale(): number {
    const { stage, picture } = this;
    const room = (side: number) => Math.max(1, side - 2 * MARGIN);
    const enlarged = Math.min(MAX_SCALE, Math.max(FIT.scale, FIT.side / Math.max(picture.width, picture.height)));
    return Math.min(enlarged, room(stage.width) / picture.width, room(stage.height) / picture.height);
  }

  /** Whether the whole picture is in view, as large as it fits. */
  get isFitted(): boolean {
    return this.fitted;
  }

  resize(stage: Size): void {
    this.stage = stage;
    if (this.fitted) this.fit();
    else this.clamp();
  }

  show(picture: Size): void {
    this.picture = picture;
    this.fit();
  }

  fit(): void {
    const { stage, picture } = this;
    this.scale = this.fitScale;
    this.x = (stage.width - picture.width * this.scale) / 2;
    this.y = (stage.height - picture.height * this.scale) / 2;
    this.fitted = true;
  }

  /** Zooms by a factor; the picture's pixel under `at` stays there. */
  zoom(factor: number, at: Point = { x: this.stage.width / 2, y: this.stage.height / 2 }): void {
    const least = this.fitScale;
    const scale = Math.min(Math.max(MAX_SCALE, least), this.scale * factor);
    if (scale <= least) {
      this.fit();
      return;
    }
    const fixed = this.toPicture(at);
    this.scale = scale;
    this.x = at.x - fixed.x * scale;
    this.y = at.y - fixed.y * scale;
    this.fitted = false;
    this.clamp();
  }

  pan(dx: number, dy: number): void {
    if (this.fitted) return;
    this.x += dx;
    this.y += dy;
    this.clamp();
  }

  /** Brings a picture's point into view, for the keyboard. */
  reveal(p: Point): void {
    const [sx, sy] = [p.x * this.scale + this.x, p.y * this.scale + this.y];
    const { width, height } = this.stage;
    this.pan(
      Math.max(0, MARGIN - sx) - Math.max(0, sx - width + MARGIN),
      Math.max(0, MARGIN - sy) - Math.max(0, sy - height + MARGIN),
    );
  }

  toPicture({ x, y }: Point): Point {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  /** The picture may not leave the middle of the stage. */
  private clamp(): void {
    const keep = (offset: number, stage: number, length: number) =>
      length <= stage ? (stage - length) / 2 : Math.min(MARGIN, Math.max(stage - length - MARGIN, offset));
    this.x = keep(this.x, this.stage.width, this.picture.width * this.scale);
    this.y = keep(this.y, this.stage.height, this.picture.height * this.scale);
  }
}
