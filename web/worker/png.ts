/** PNG from bytes, so that no canvas with its limits and its premultiplied alpha is on the way. */
import { crc32 } from "../../src/io/crc.js";
import type { RgbaPicture } from "../app/pictures.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

function chunk(type: string, content: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = type.charCodeAt(i);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

function header(width: number, height: number, colourType: number): Uint8Array {
  const bytes = new Uint8Array(13);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  bytes[8] = 8; // bits
  bytes[9] = colourType;
  return bytes;
}

/** Paeth's predictor, of the PNG specification, section 9.4. */
function paeth(left: number, above: number, corner: number): number {
  const estimate = left + above - corner;
  const [a, b, c] = [Math.abs(estimate - left), Math.abs(estimate - above), Math.abs(estimate - corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/** Every row as its difference from Paeth's prediction, which suits photographs, after one byte that says so. */
function filtered({ width, height, rgba }: RgbaPicture, channels: 3 | 4): Uint8Array<ArrayBuffer> {
  const rows = new Uint8Array(height * (1 + width * channels));
  let at = 0;
  for (let y = 0; y < height; y++) {
    rows[at++] = 4;
    for (let x = 0; x < width; x++) {
      const from = 4 * (y * width + x);
      for (let k = from; k < from + channels; k++) {
        const left = x > 0 ? rgba[k - 4] : 0;
        const above = y > 0 ? rgba[k - 4 * width] : 0;
        const corner = x > 0 && y > 0 ? rgba[k - 4 * width - 4] : 0;
        rows[at++] = rgba[k] - paeth(left, above, corner);
      }
    }
  }
  return rows;
}

/** A PNG of 8 bits a channel, with alpha only where the picture has some. Every pixel is kept as it is. */
export async function encodePng(picture: RgbaPicture): Promise<Blob> {
  const opaque = picture.rgba.every((value, i) => i % 4 !== 3 || value === 255);
  const zlib = new Blob([filtered(picture, opaque ? 3 : 4)]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(zlib).arrayBuffer());
  return new Blob(
    [
      new Uint8Array(SIGNATURE),
      chunk("IHDR", header(picture.width, picture.height, opaque ? 2 : 6)),
      chunk("IDAT", packed),
      chunk("IEND", new Uint8Array(0)),
    ],
    { type: "image/png" },
  );
}
