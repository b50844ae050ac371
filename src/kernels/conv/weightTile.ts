/**
 * What the weight backends with workgroup memory share: which rows of dw a tile holds, and how an invocation walks the output pixels.
 *
 * Rows are (tap, c4). Normally a tile is any run of them, so that three input channels of 49 taps fill tiles as well as
 * 512 of nine; with `imagePerTap` every tap sums over pixels of its own, and a tile stays within one.
 */
import { range } from "./range.js";
import { weightPrelude } from "./weightPass.js";

/**
 * WGSL: `Block`, `block_of`, `Place`, `place_of`, `move_on`, `any_live`.
 * @param rows4 vec4s of rows in a tile
 * @param depth output pixels of one step
 */
export const weightTileWgsl = (rows4: number, depth: number): string => /* wgsl */ `
${weightPrelude()}
struct Block {
  row: u32,       // first vec4 of rows of dw, among all
  rows: u32,      // how many of them there are from here to the end of the group
  k: u32,         // tile over the columns
  chunk: u32,
  first: u32,     // output pixels that it sums over, among those of all images
  end: u32,
}

fn block_of(id: u32) -> Block {
  var rest = id;
  let k = rest % p.tilesK; rest /= p.tilesK;
  let tile = rest % p.tilesC; rest /= p.tilesC;
  let groups = select(1u, p.kh * p.kw, p.imagePerTap != 0u);
  let group = rest % groups;
  let chunk = rest / groups;
  let in_group = p.kh * p.kw / groups * p.c4;
  let first = first_row(group) + chunk * p.chunkRows;
  let end = first_row(group) + min((chunk + 1u) * p.chunkRows, p.rows);
  return Block(group * in_group + tile * ${rows4}u, in_group - tile * ${rows4}u, k, chunk, first * p.q, end * p.q);
}

/** An output pixel: image, row, column. */
struct Place {
  n: u32,
  y: u32,
  x: u32,
}

fn place_of(pixel: u32) -> Place {
  let row = pixel / p.q;
  return Place(row / p.p, row % p.p, pixel % p.q);
}

fn move_on(start: Place, by: u32) -> Place {
  var to = Place(start.n, start.y, start.x + by);
  while (to.x >= p.q) {
    to.x -= p.q;
    to.y++;
    if (to.y == p.p) { to.y = 0u; to.n++; }
  }
  return to;
}

/** Whether dy may differ from zero anywhere in the step that begins at this pixel; the same for the whole workgroup. */
fn any_live(pixel: u32, end: u32) -> bool {
  if (p.skipping == 0u) { return true; }
  for (var at = pixel; at < min(pixel + ${depth}u, end); at++) {
    if (live_mask[at % p.livePixels] != 0.0) { return true; }
  }
  return false;
}
`;

/**
 * How a workgroup of `invocations` reads a step into registers: WGSL variables `a_N` (four rows of a pixel) and `b_N` (four
 * columns of one). `setup` expects `block` and `local` and leaves `pixel`, the first of a step; `read` reads the step there.
 * An invocation reads row `fill_row` of pixels `fill_a + N * pixelsA`, and column `fill_column` of `fill_b + N * pixelsB`.
 * @throws {Error} when the step does not divide evenly: a fault of the spec
 */
export function weightReads(
  { rows4, columns4, depth }: { readonly rows4: number; readonly columns4: number; readonly depth: number },
  invocations: number,
) {
  const [pixelsA, pixelsB] = [invocations / rows4, invocations / columns4];
  const [fillsA, fillsB] = [depth / pixelsA, depth / pixelsB];
  if (![pixelsA, pixelsB, fillsA, fillsB].every(Number.isInteger)) {
    throw new Error(`a tile of ${4 * rows4}x${4 * columns4}x${depth} does not divide among ${invocations} invocations`);
  }
  const [A, B] = [range(fillsA), range(fillsB)];
  const setup = /* wgsl */ `let fill_row = local % ${rows4}u;
  let fill_a = local / ${rows4}u;
  let fill_column = local % ${columns4}u;
  let fill_b = local / ${columns4}u;
  let in_rows = fill_row < block.rows;
  let tap = (block.row + fill_row) / p.c4;
  let c = (block.row + fill_row) % p.c4;
  let shifted = i32(1u - p.imagePerTap);
  let tap_offset = vec2<i32>(i32(tap / p.kw) * shifted * p.dilH - p.padH, i32(tap % p.kw) * shifted * p.dilW - p.padW);
  let column_k = min(block.k * ${columns4}u + fill_column, p.k4 - 1u);
  ${A.map((s) => `var a_${s} = vec4f();`).join(" ")}
  ${B.map((s) => `var b_${s} = vec4f();`).join(" ")}
  var pixel = block.first;
  var place = place_of(block.first + fill_a);`;
  // `place` is that of the invocation's next source pixel, at every time.
  const read = /* wgsl */ `{
      ${A.map(
        (s) => `{
        let y = i32(place.y) * p.strideH + tap_offset.x;
        let x_at = i32(place.x) * p.strideW + tap_offset.y;
        let inside = in_rows && pixel + fill_a + ${s * pixelsA}u < block.end && u32(y) < p.h && u32(x_at) < p.w;
        let at = select(0u, ((place.n * p.h + u32(y)) * p.w + u32(x_at)) * p.c4, inside);
        a_${s} = select(vec4f(), x[at + c], inside);
        place = move_on(place, ${pixelsA}u);
      }`,
      ).join("\n      ")}
      ${B.map((s) => `{ let at = pixel + fill_b + ${s * pixelsB}u; b_${s} = select(vec4f(), dy[min(at, block.end - 1u) * p.k4 + column_k], at < block.end); }`).join("\n      ")}
    }`;
  return { setup, read, A, B, pixelsA, pixelsB };
}
