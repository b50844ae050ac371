/**
 * The operations of matrix units as plain loops, for adapters without: a factor is the place where it stands in workgroup
 * memory, and the entries of a sum are dealt out to the lanes of the subgroup (entry e to lane e mod lanes). Slow, but the
 * kernels around it, their memory layout above all, are the library's own.
 */
import type { MatrixLanguage } from "../../src/kernels/conv/matrixUnit.js";

export const emulatedMatrices = (element: "f16" | "f32"): MatrixLanguage => ({
  directives: `${element === "f16" ? "enable f16;\n" : ""}enable subgroups;\n`,
  element,
  operations: ({ m, n, k, lanes }, { left, right, sums }) => ({
    declarations: /* wgsl */ `
struct Left {
  at: u32,
  row_stride: u32,
  inner_stride: u32,
}
struct Right {
  at: u32,
  stride: u32,
}
alias Sum = array<f32, ${Math.ceil((m * n) / lanes)}>;
fn multiply_add(a: Left, b: Right, sum: Sum, lane: u32) -> Sum {
  var total = sum;
  for (var e = lane; e < ${m * n}u; e += ${lanes}u) {
    for (var i = 0u; i < ${k}u; i++) {
      let x = f32(${left}[a.at + e / ${n}u * a.row_stride + i * a.inner_stride]);
      total[e / ${lanes}u] += x * f32(${right}[b.at + i * b.stride + e % ${n}u]);
    }
  }
  return total;
}
fn store_sum(sum: Sum, at: u32, stride: u32, lane: u32) {
  for (var e = lane; e < ${m * n}u; e += ${lanes}u) { ${sums}[at + e / ${n}u * stride + e % ${n}u] = sum[e / ${lanes}u]; }
}
`,
    loadLeft: (at, stride) => `Left(${at}, ${stride}u, 1u)`,
    loadLeftTransposed: (at, stride) => `Left(${at}, 1u, ${stride}u)`,
    loadRight: (at, stride) => `Right(${at}, ${stride}u)`,
    multiplyAdd: (a, b, sum) => `multiply_add(${a}, ${b}, ${sum}, lane)`,
    store: (sum, at, stride) => `store_sum(${sum}, ${at}, ${stride}u, lane);`,
  }),
});
