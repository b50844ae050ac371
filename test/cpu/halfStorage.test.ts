/** The text of kernels with half-precision buffers. */
import { describe, expect, it } from "vitest";
import { withHalfBindings } from "../../src/gpu/halfStorage.js";
import { kernelSource } from "../../src/gpu/kernel.js";
import { batchNormForwardKernel } from "../../src/kernels/batchNorm.js";
import { gatherSubgroupKernel } from "../../src/kernels/conv/subgroup.js";
import { shrinkTemplates } from "../../tools/shrink-wgsl.mjs";

const declared = (y: string) => `@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> at: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<${y}>;
`;

/** The statements that follow the declarations, with halves in some buffers. */
const rewritten = (code: string, bindings: readonly number[]) =>
  withHalfBindings(declared("vec4f") + code, bindings)
    .split("\n")
    .slice(3)
    .join("\n");

describe("withHalfBindings", () => {
  it("changes nothing where all buffers are float32", () => {
    const source = `${declared("vec4f")}y[id] = x[id]; // as it is`;
    expect(withHalfBindings(source, [])).toBe(source);
    const spec = { masked: true };
    expect(kernelSource(batchNormForwardKernel, spec, [])).toBe(kernelSource(batchNormForwardKernel, spec));
  });

  it("declares the buffers named and no others", () => {
    expect(withHalfBindings(declared("vec4f"), [2, 3])).toBe(
      declared("vec4h").replace("at: array<f32>", "at: array<f16>"),
    );
  });

  it("reads kernels as they are shipped too, without the spaces that mean nothing", () => {
    const source = `${declared("vec4f")}fn f() {\n  y[2u * id] = x[id] + at[id];\n  y[id] += x[id];\n}\n`;
    const shipped = shrinkTemplates(`\`${source}\``, "kernel.ts").slice(1, -1);
    expect(shipped).not.toBe(source);
    const plain = (text: string) => text.replace(/\s/g, "");
    expect(plain(withHalfBindings(shipped, [1, 3]))).toBe(plain(withHalfBindings(source, [1, 3])));
  });

  it("enables f16 once, and before every declaration", () => {
    const spec = { lanes: 8, lanesK: 8, pixels: 16, depth: 4 };
    const source = kernelSource(gatherSubgroupKernel, spec, [1, 8]);
    expect(source.indexOf("enable f16;")).toBe(0);
    expect(source.match(/enable f16;/g)).toHaveLength(1);
    expect(kernelSource({ ...gatherSubgroupKernel, directives: "enable f16;\n" }, spec, [1])).not.toMatch(
      /enable f16;\s*enable f16/,
    );
  });

  it.each([
    ["let v = x[id];", [1], "let v = vec4f(x[id]);"],
    ["let v = x[id].y;", [1], "let v = vec4f(x[id]).y;"],
    ["let v = x[(a[1] + 2u) * p.x[3]];", [1], "let v = vec4f(x[(a[1] + 2u) * p.x[3]]);"],
    ["let v = x[u32(at[i])] == x[0];", [1, 2], "let v = vec4f(x[u32(f32(at[i]))]) == vec4f(x[0]);"],
    ["y[id] = x[id] + y[id];", [3], "y[id] = vec4h(x[id] + vec4f(y[id]));"],
    ["y[id] += 2.0 * x[id];", [1, 3], "y[id] = vec4h(vec4f(y[id]) + (2.0 * vec4f(x[id])));"],
    ["y[i] = a; y[j] = b;", [3], "y[i] = vec4h(a); y[j] = vec4h(b);"],
    ["y[u32(at[i])] = a;", [2, 3], "y[u32(f32(at[i]))] = vec4h(a);"],
    ["if (x[i].x <= 1.0) { y[i] = a; }", [1, 3], "if (vec4f(x[i]).x <= 1.0) { y[i] = vec4h(a); }"],
    ["proxy[id] = x2[id];", [1, 3], "proxy[id] = x2[id];"],
    ["let v = x[0]; // x[ is a buffer", [1], "let v = vec4f(x[0]); "],
  ] as const)("%s with halves in %j", (code, bindings, wanted) => {
    expect(rewritten(code, bindings)).toBe(wanted);
  });

  it.each([
    ["y[i].x = 1.0;", [3], /written by lanes/],
    ["y[i][l] += 1.0;", [3], /written by lanes/],
    ["let n = arrayLength(&x);", [1], /address of x/],
    ["let v = x[i;", [1], /no bracket/],
    ["", [4], /binding 4/],
  ] as const)("refuses %s", (code, bindings, message) => {
    expect(() => rewritten(code, bindings)).toThrow(message);
  });
});
