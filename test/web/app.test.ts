/** The page's parts that need no browser. */
import { PNG } from "pngjs";
import { describe, expect, it } from "vitest";
import { shrinkTemplates } from "../../tools/shrink-wgsl.mjs";
import { maskUpdateKernel } from "../../src/kernels/maskUpdate.js";
import { resizeMask } from "../../src/pconv/picture.js";
import { Editing } from "../../web/app/editing.js";
import { MaskLayer } from "../../web/app/mask.js";
import { maskFromRgba, maskToRgba, type RgbaPicture, seenPixels, withHoleFilled } from "../../web/app/pictures.js";
import { drawSample } from "../../web/app/sample.js";
import { Viewport } from "../../web/app/viewport.js";
import { levelsOnCpu } from "../../web/worker/levels.js";
import { encodePng } from "../../web/worker/png.js";

const holesIn = (values: Uint8Array): number => values.filter((v) => v === 0).length;

describe("MaskLayer", () => {
  it("paints what is within the radius of a line, and counts it", () => {
    const mask = new MaskLayer(40, 20);
    mask.stroke({ x: 10, y: 10 }, { x: 30, y: 10 }, 4, 0);
    expect(mask.holes).toBe(holesIn(mask.values));
    expect(Math.abs(mask.holes - (20 * 8 + Math.PI * 16))).toBeLessThan(12);
    expect(mask.values[10 * 40 + 20]).toBe(0);
    expect(mask.values[15 * 40 + 20]).toBe(1);
    mask.stroke({ x: 20, y: 10 }, { x: 20, y: 10 }, 3, 1);
    expect(mask.values[10 * 40 + 20]).toBe(1);
    expect(mask.holes).toBe(holesIn(mask.values));
  });

  it("takes strokes that leave the picture", () => {
    const mask = new MaskLayer(8, 8);
    expect(mask.stroke({ x: -50, y: -50 }, { x: -40, y: 60 }, 3, 0).right).toBeLessThan(1);
    expect(mask.holes).toBe(0);
    mask.stroke({ x: -5, y: 4 }, { x: 20, y: 4 }, 2, 0);
    expect(mask.holes).toBe(8 * 4);
  });
});

describe("Editing", () => {
  it("undoes and redoes strokes, clearing, inverting and loading", () => {
    const changes: string[] = [];
    const editing = new Editing(30, 20, ({ left, top, right, bottom }) =>
      changes.push([left, top, right, bottom].join()),
    );
    const states = [editing.mask.values.slice()];
    const step = (run: () => void): void => {
      run();
      states.push(editing.mask.values.slice());
    };
    step(() => {
      editing.beginStroke({ x: 5, y: 5 }, 3, 0);
      editing.strokeTo({ x: 15, y: 9 });
      editing.endStroke();
    });
    step(() => editing.invert());
    step(() => editing.load({ width: 3, height: 2, values: Uint8Array.of(0, 1, 1, 1, 1, 0) }));
    expect(holesIn(states[3])).toBe(200);
    step(() => editing.clear());
    for (let i = 3; i >= 0; i--) {
      editing.undo();
      expect(editing.mask.values).toEqual(states[i]);
      expect(editing.mask.holes).toBe(holesIn(states[i]));
    }
    expect(editing.canUndo).toBe(false);
    for (let i = 1; i <= 2; i++) {
      editing.redo();
      expect(editing.mask.values).toEqual(states[i]);
    }
    editing.clear();
    expect(editing.canRedo).toBe(false);
    expect(changes).toContain("0,0,30,20");
  });

  it("takes back a stroke that becomes a pinch, and remembers nothing of it", () => {
    const editing = new Editing(30, 20, () => undefined);
    editing.beginStroke({ x: 5, y: 5 }, 3, 0);
    editing.cancelStroke();
    expect(editing.mask.holes).toBe(0);
    expect(editing.canUndo).toBe(false);
  });
});

describe("Viewport", () => {
  it("fits, zooms around a point, and keeps the picture on the stage", () => {
    const view = new Viewport();
    view.resize({ width: 632, height: 432 });
    view.show({ width: 1200, height: 400 });
    expect([view.scale, view.x, view.y]).toEqual([0.5, 16, 116]);
    const at = { x: 300, y: 200 };
    const under = view.toPicture(at);
    view.zoom(6, at);
    expect(view.scale).toBe(3);
    expect(view.toPicture(at).x).toBeCloseTo(under.x, 9);
    view.pan(1e6, -1e6);
    expect(view.x).toBe(16);
    expect(view.y).toBe(432 - 400 * 3 - 16);
    view.zoom(0.01);
    expect(view.isFitted).toBe(true);
    expect(view.scale).toBe(0.5);
    view.show({ width: 80, height: 60 });
    expect(view.scale).toBe(4);
    view.show({ width: 3, height: 5 });
    expect(view.scale).toBe(32);
  });
});

describe("pictures", () => {
  const picture: RgbaPicture = {
    width: 5,
    height: 3,
    rgba: Uint8ClampedArray.from({ length: 60 }, (_, i) => (i * 37) % 256),
  };

  it("keeps every byte outside the hole", () => {
    const mask = { width: 5, height: 3, values: Uint8Array.from({ length: 15 }, (_, i) => (i === 7 ? 0 : 1)) };
    const filled = { width: 5, height: 3, pixels: new Float32Array(45).fill(0.5) };
    const { rgba } = withHoleFilled(picture, mask, filled);
    expect(Array.from(rgba.subarray(28, 32))).toEqual([128, 128, 128, 255]);
    expect([...rgba.subarray(0, 28), ...rgba.subarray(32)]).toEqual([
      ...picture.rgba.subarray(0, 28),
      ...picture.rgba.subarray(32),
    ]);
  });

  it("knows the pixels without a colour", () => {
    const rgba = picture.rgba.map((v, i) => (i % 4 === 3 ? 255 : v));
    expect(seenPixels({ ...picture, rgba })).toBeNull();
    rgba[4 * 6 + 3] = 0;
    expect(holesIn(seenPixels({ ...picture, rgba })!.values)).toBe(1);
  });

  it("writes masks and reads them again", () => {
    const values = Uint8Array.from({ length: 15 }, (_, i) => (i % 4 === 0 ? 0 : 1));
    expect(maskFromRgba(maskToRgba({ width: 5, height: 3, values })).values).toEqual(values);
    expect(resizeMask({ width: 5, height: 3, values }, 10, 6).values[2 * 10 + 8]).toBe(values[5 + 4]);
  });

  it("writes PNG that others read, pixel for pixel, with alpha only where there is some", async () => {
    const bytesOf = async (p: RgbaPicture): Promise<Buffer> => Buffer.from(await (await encodePng(p)).arrayBuffer());
    expect(PNG.sync.read(await bytesOf(picture)).data).toEqual(Buffer.from(picture.rgba));
    const sample = drawSample(64);
    const bytes = await bytesOf(sample);
    expect(bytes[25]).toBe(2); // colour type of the header: RGB
    const png = PNG.sync.read(bytes);
    expect([png.width, png.height]).toEqual([64, 48]);
    expect(png.data).toEqual(Buffer.from(sample.rgba));
  });
});

describe("levels", () => {
  it("halve, and shrink the hole until it is gone", () => {
    const mask = new MaskLayer(128, 96);
    mask.stroke({ x: 60, y: 40 }, { x: 70, y: 40 }, 20, 0);
    const levels = levelsOnCpu(mask);
    expect(levels.map(({ width, height }) => `${width}x${height}`)).toEqual([
      "128x96",
      "64x48",
      "32x24",
      "16x12",
      "8x6",
      "4x3",
      "2x2",
      "1x1",
    ]);
    const shares = levels.map(({ values }) => holesIn(values) / values.length);
    shares.slice(1).forEach((share, i) => expect(share).toBeLessThanOrEqual(shares[i]));
    expect(shares[1]).toBeGreaterThan(0);
    expect(shares.at(-1)).toBe(0);
  });
});

describe("shrinkTemplates", () => {
  it("leaves comments and indentation out of templates of many lines, and no line", () => {
    const source =
      "const a = `one // stays`;\nconst b = `\n  let x = ${y}; // goes\n  // goes\n    // ${y} stays\n  x += 1;\n`; // code\n";
    expect(shrinkTemplates(source, "a.ts")).toBe(
      "const a = `one // stays`;\nconst b = `\nlet x= ${y};\n\n// ${y} stays\nx+=1;\n`; // code\n",
    );
  });

  it("leaves out comments in stars, but for their lines", () => {
    const source = "const a = `\n  /* one */ let x = 1;\n/** two\n * lines */\nfn f() {}\n/* ${y} stays */\n`;\n";
    expect(shrinkTemplates(source, "a.ts")).toBe("const a = `\nlet x=1;\n\n\nfn f(){}\n/* ${y} stays*/\n`;\n");
  });

  it("leaves out spaces that keep nothing apart", () => {
    const shrunk = (line: string) => shrinkTemplates(`\`\n${line}\n\``, "a.ts").slice(2, -2);
    expect(shrunk("@group(0) @binding(1) var<storage, read> a: array<vec4f>;")).toBe(
      "@group(0)@binding(1)var<storage,read> a:array<vec4f>;",
    );
    // One sign instead of two, a comment, or a type's end with what follows.
    for (const line of ["a- -b", "a+ -b", "a/ *b", "a < b", "f()-> u32", "var x:vec2<f32> =y;", "${a} ${b} = ${c} (d)"])
      expect(shrunk(line)).toBe(line);
    expect(shrunk("if (a == b && c >= -d) { return (a + b) * c; }")).toBe("if(a==b&&c >= -d){return(a+b)*c;}");
  });

  it("shrinks a kernel and keeps its bindings", () => {
    const text = maskUpdateKernel.wgsl({ convention: "paper", biased: false, kw: 3, single: true, rows: 1 });
    const shrunk = shrinkTemplates(`\`${text}\``, "kernel.ts");
    expect(shrunk.length).toBeLessThan(0.95 * text.length);
    expect(shrunk.match(/@binding/g)).toHaveLength(5);
  });
});
