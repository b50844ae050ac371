/**
 * Winograd's minimal filtering F(m x m, 3x3): a 3x3 convolution of stride 1 as (m+2)^2 products of matrices over channels, for tiles of m x m
 * outputs and the (m+2) x (m+2) inputs under them:
 *
 *   y = A' [ (G w G') . (B' d B) ] A
 *
 * F(2x2) multiplies 4 times per output pixel and channel pair, F(4x4) 2.25 times, the direct form 9 times.
 *
 * The rows belong to the points 0, p, -p, ... and infinity at which polynomials are multiplied, so they come in pairs that differ in signs
 * alone. F(2x2) takes 0, 1, -1: additions only. F(4x4) takes 0, +-5/8, +-3/2, whose squares float32 holds exactly: of 15 sets of points these
 * had the smallest error in a float32 simulation, 1.4 times the direct form's largest at 64 channels, where the usual 0, +-1, +-2 had 9
 * times.
 *
 * Source: Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", sec. 4; the construction from points is Toom and
 * Cook's, as in Barabasz et al. 2020, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks".
 */
import { range } from "./range.js";

export type Matrix = readonly (readonly number[])[];

export interface WinogradForm {
  /** Side of a tile of outputs, m. */
  readonly tile: number;
  /** Side of a transformed tile, m + 2. */
  readonly side: number;
  /** Of the input, [side][side]. */
  readonly Bt: Matrix;
  /** Of the weight, [side][3]. */
  readonly G: Matrix;
  /** Of the output, [tile][side]. */
  readonly At: Matrix;
  /** Multiply-adds of the direct form for each in the products. */
  readonly saves: number;
}

const F2: WinogradForm = {
  tile: 2,
  side: 4,
  Bt: [
    [1, 0, -1, 0],
    [0, 1, 1, 0],
    [0, -1, 1, 0],
    [0, 1, 0, -1],
  ],
  G: [
    [1, 0, 0],
    [0.5, 0.5, 0.5],
    [0.5, -0.5, 0.5],
    [0, 0, 1],
  ],
  At: [
    [1, 1, 1, 0],
    [0, 1, -1, -1],
  ],
  saves: 36 / 16,
};

/** F(4x4) at 0, p, -p, q, -q and infinity. */
function fourByFour(p: number, q: number): WinogradForm {
  const [p2, q2] = [p * p, q * q];
  /** One over the product of a point's differences to the others. */
  const [zero, atP, atQ] = [1 / (p2 * q2), 1 / (2 * p2 * (p2 - q2)), 1 / (2 * q2 * (q2 - p2))];
  return {
    tile: 4,
    side: 6,
    Bt: [
      [p2 * q2, 0, -(p2 + q2), 0, 1, 0],
      [0, -p * q2, -q2, p, 1, 0],
      [0, p * q2, -q2, -p, 1, 0],
      [0, -q * p2, -p2, q, 1, 0],
      [0, q * p2, -p2, -q, 1, 0],
      [0, p2 * q2, 0, -(p2 + q2), 0, 1],
    ],
    G: [
      [zero, 0, 0],
      [atP, p * atP, p2 * atP],
      [atP, -p * atP, p2 * atP],
      [atQ, q * atQ, q2 * atQ],
      [atQ, -q * atQ, q2 * atQ],
      [0, 0, 1],
    ],
    At: [
      [1, 1, 1, 1, 1, 0],
      [0, p, -p, q, -q, 0],
      [0, p2, p2, q2, q2, 0],
      [0, p * p2, -p * p2, q * q2, -q * q2, 1],
    ],
    saves: 144 / 36,
  };
}

/** The forms by their tile's side. */
export const WINOGRAD_FORMS = { 2: F2, 4: fourByFour(5 / 8, 3 / 2) } as const;
export type WinogradTile = keyof typeof WINOGRAD_FORMS;

/** What specialises a kernel's text. */
export interface WinogradSpec {
  readonly tile: WinogradTile;
}

/** A kernel's form, and the numbers of rows and columns that its text is unrolled over. */
export function unrolled({ tile }: WinogradSpec) {
  const form: WinogradForm = WINOGRAD_FORMS[tile];
  return { ...form, tiles: range(form.tile), sides: range(form.side) };
}

export const transposed = (m: Matrix): Matrix => m[0].map((_, j) => m.map((row) => row[j]));

/** WGSL of a sum of terms, without those whose factor is 0. */
function sumOf(terms: readonly (readonly [factor: number, value: string])[]): string {
  const text = terms
    .filter(([factor]) => factor !== 0)
    .map(([factor, value], i) => {
      const size = Math.abs(factor) === 1 ? value : `${Math.fround(Math.abs(factor))} * ${value}`;
      return factor < 0 ? `- ${size}` : i === 0 ? size : `+ ${size}`;
    });
  return text.length === 0 ? "0.0" : text.join(" ");
}

/** Rows i, l of which each entry is equal or opposite, some of them either; the others stand alone. */
function pairsOf(m: Matrix): {
  readonly pairs: readonly (readonly [number, number])[];
  readonly single: readonly number[];
} {
  const pairs: [number, number][] = [];
  const taken = new Set<number>();
  m.forEach((row, i) => {
    if (taken.has(i)) return;
    const l = m.findIndex((other, at) => at > i && !taken.has(at) && arePair(row, other));
    if (l < 0) return;
    pairs.push([i, l]);
    taken.add(i).add(l);
  });
  return { pairs, single: m.map((_, i) => i).filter((i) => !taken.has(i)) };
}

const arePair = (a: readonly number[], b: readonly number[]): boolean =>
  a.every((v, j) => Math.abs(v) === Math.abs(b[j])) &&
  a.some((v, j) => v !== 0 && v === b[j]) &&
  a.some((v, j) => v !== 0 && v === -b[j]);

/**
 * WGSL statements of `to(i) = sum_j m[i][j] from(j)`, of floats or vectors of them. What two rows have in common is computed once, and of two columns that differ in
 * signs alone first the sum and the difference.
 * @param name of the values in between; no other may begin with it
 */
export function linearMap(m: Matrix, to: (i: number) => string, from: (j: number) => string, name: string): string {
  const columns = pairsOf(transposed(m));
  if (columns.pairs.length > 0) {
    const joined = columns.pairs
      .map(([j, l], at) => `let ${name}s${at} = ${from(j)} + ${from(l)}; let ${name}d${at} = ${from(j)} - ${from(l)};`)
      .join(" ");
    const rows = m.map((row, i) => {
      const halves = columns.pairs.map(
        ([j, l], at) => [row[j], `${name}${row[j] === row[l] ? "s" : "d"}${at}`] as const,
      );
      return `${to(i)} = ${sumOf([...columns.single.map((j) => [row[j], from(j)] as const), ...halves])};`;
    });
    return [joined, ...rows].join(" ");
  }
  const rows = pairsOf(m);
  const alone = rows.single.map((i) => `${to(i)} = ${sumOf(m[i].map((v, j) => [v, from(j)]))};`);
  const paired = rows.pairs.map(([i, l], at) => {
    const part = (same: boolean) => sumOf(m[i].map((v, j) => [(v === m[l][j]) === same ? v : 0, from(j)]));
    const [even, odd] = [`${name}e${at}`, `${name}o${at}`];
    return `let ${even} = ${part(true)}; let ${odd} = ${part(false)}; ${to(i)} = ${even} + ${odd}; ${to(l)} = ${even} - ${odd};`;
  });
  return [...alone, ...paired].join(" ");
}

/** L X L' in float64: a transform of one tile by L ([r][s], X is s x s). */
export function winogradRef(l: Matrix, tile: Matrix): number[][] {
  const left = l.map((row) => tile[0].map((_, j) => row.reduce((sum, v, s) => sum + v * tile[s][j], 0)));
  return left.map((row) => l.map((right) => right.reduce((sum, v, s) => sum + v * row[s], 0)));
}
