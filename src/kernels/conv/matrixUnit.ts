/**
 * The matrix units of a GPU as WGSL reaches them: the extension chromium_experimental_subgroup_matrix.
 *
 * A subgroup holds matrices together: left factors [m,k], right factors [k,n] and sums [m,n]. It loads and stores them from
 * arrays in workgroup memory, and multiplies them in a few cycles. Here factors are half precision and sums float32.
 *
 * Kernels reach the operations through {@link MatrixLanguage}, so that tests can put plain loops in their place and run the same
 * kernel, with the same memory layout, on adapters without a matrix unit.
 */
import type { Gpu } from "../../gpu/gpu.js";

/** Sizes of one multiplication. */
export interface MatrixUnit {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Lanes of a subgroup. */
  readonly lanes: number;
}

/** The arrays in workgroup memory that matrices are loaded from and stored to. */
export interface MatrixArrays {
  readonly left: string;
  readonly right: string;
  readonly sums: string;
}

/** WGSL of the operations; places are expressions that count elements of the arrays. */
export interface MatrixOperations {
  /** Declares the types `Left`, `Right` and `Sum`. */
  readonly declarations: string;
  /** A left factor with element [row, inner] at `at + row * stride + inner`. */
  loadLeft(at: string, stride: number): string;
  /** A left factor with element [row, inner] at `at + inner * stride + row`. */
  loadLeftTransposed(at: string, stride: number): string;
  /** A right factor with element [inner, column] at `at + inner * stride + column`. */
  loadRight(at: string, stride: number): string;
  multiplyAdd(left: string, right: string, sum: string): string;
  /** Statement that stores a sum with element [row, column] at `at + row * stride + column`. */
  store(sum: string, at: string, stride: number): string;
}

export interface MatrixLanguage {
  readonly directives: string;
  /** Type of the factors' elements. */
  readonly element: string;
  operations(unit: MatrixUnit, arrays: MatrixArrays): MatrixOperations;
}

/** The operations of the extension. */
export const MATRIX_EXTENSION: MatrixLanguage = {
  directives: "enable f16;\nenable subgroups;\nenable chromium_experimental_subgroup_matrix;\n",
  element: "f16",
  operations: ({ m, n, k }, { left, right, sums }) => ({
    declarations: `alias Left = subgroup_matrix_left<f16, ${k}, ${m}>;
alias Right = subgroup_matrix_right<f16, ${n}, ${k}>;
alias Sum = subgroup_matrix_result<f32, ${n}, ${m}>;
`,
    loadLeft: (at, stride) => `subgroupMatrixLoad<Left, row_major>(&${left}, ${at}, ${stride}u)`,
    loadLeftTransposed: (at, stride) => `subgroupMatrixLoad<Left, col_major>(&${left}, ${at}, ${stride}u)`,
    loadRight: (at, stride) => `subgroupMatrixLoad<Right, row_major>(&${right}, ${at}, ${stride}u)`,
    multiplyAdd: (a, b, sum) => `subgroupMatrixMultiplyAccumulate(${a}, ${b}, ${sum})`,
    store: (sum, at, stride) => `subgroupMatrixStore<row_major>(&${sums}, ${at}, ${sum}, ${stride}u);`,
  }),
};

/** The adapter's largest unit of half factors and float32 sums whose sides divide the tiles', or null. */
export function matrixUnit({ device, adapter }: Pick<Gpu, "device" | "adapter">): MatrixUnit | null {
  const { subgroupSize } = adapter;
  const features = ["chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"];
  // A workgroup's subgroups must be known by number, so subgroups must have one size.
  if (subgroupSize === null || features.some((f) => !device.features.has(f))) return null;
  const units = adapter.matrices
    .filter((u) => u.factor === "f16" && u.sum === "f32" && [u.m, u.n, u.k].every((side) => side === 8 || side === 16))
    .sort((a, b) => b.m * b.n * b.k - a.m * a.n * a.k);
  return units.length > 0 ? { m: units[0].m, n: units[0].n, k: units[0].k, lanes: subgroupSize } : null;
}
