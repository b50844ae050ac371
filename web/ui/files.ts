/** Pictures into the page and out of it. */
import type { RgbaPicture } from "../app/pictures.js";

/** Rows that go through a canvas at once: whole photographs are larger than some browsers' canvases may be. */
const STRIP_ROWS = 512;
/** Longest side that is drawn on the stage; the pixels that are filled and saved are always all. */
const DISPLAY_SIDE = 4096;

/**
 * A picture file as sRGB pixels, turned upright as its EXIF says.
 * @throws {Error} with a message for the visitor when the browser cannot read it
 */
export async function decode(file: Blob): Promise<RgbaPicture> {
  // Upright is the default, and older Safaris refuse the word for it.
  const bitmap = await createImageBitmap(file).catch((cause: unknown) => {
    throw new Error("This file is not a picture that the browser can read. Try JPEG, PNG, WebP or AVIF.", { cause });
  });
  try {
    const { width, height } = bitmap;
    const rgba = new Uint8ClampedArray(width * height * 4);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, Math.min(height, STRIP_ROWS)];
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    for (let top = 0; top < height; top += STRIP_ROWS) {
      const rows = Math.min(STRIP_ROWS, height - top);
      context.clearRect(0, 0, width, rows);
      context.drawImage(bitmap, 0, -top);
      rgba.set(context.getImageData(0, 0, width, rows).data, top * width * 4);
    }
    return { width, height, rgba };
  } finally {
    bitmap.close();
  }
}

/** What the stage draws of a picture. */
export function toBitmap({ width, height, rgba }: RgbaPicture): Promise<ImageBitmap> {
  const image = new ImageData(rgba, width, height);
  const scale = DISPLAY_SIDE / Math.max(width, height);
  if (scale >= 1) return createImageBitmap(image);
  return createImageBitmap(image, {
    resizeWidth: Math.max(1, Math.round(width * scale)),
    resizeHeight: Math.max(1, Math.round(height * scale)),
    resizeQuality: "high",
  });
}

/** Saves a file under a name. */
export function download(file: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // The browser has taken the address over once the click is through.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Calls `take` for files that are dropped on the page or pasted into it, with null for a drop of something else. */
export function takeDropsAndPastes(take: (file: File | null) => void): void {
  const first = (files: FileList | undefined): File | undefined => Array.from(files ?? [])[0];
  document.addEventListener("paste", (event) => {
    const file = first(event.clipboardData?.files);
    if (file) take(file);
  });
  const body = document.body;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    body.classList.remove("dropping");
    take(first(event.dataTransfer?.files) ?? null);
  });
}
