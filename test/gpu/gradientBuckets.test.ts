/** When a gradient is complete, and what is done with it then. */
import { describe, expect, it } from "vitest";
import { weightedSum } from "../../src/autograd/ops/weightedSum.js";
import { Tape } from "../../src/autograd/tape.js";
import { Tensor } from "../../src/autograd/tensor.js";
import { DeviceGroup } from "../../src/optim/deviceGroup.js";
import { GradientBuckets } from "../../src/optim/gradientBuckets.js";
import { useGpu } from "../support/gpu.js";
import { Devices, localGroup } from "../support/processGroup.js";

const gpu = useGpu();
const ONE = { n: 1, h: 1, w: 1, c: 1 };

function leaf(value: number, name: string, on = gpu()): Tensor {
  const tensor = Tensor.from(on, ONE, [value], name);
  tensor.requiresGrad = true;
  return tensor;
}

describe("Tape.onGradient", () => {
  it("comes once for each leaf, when nothing will be added to its gradient any more", async () => {
    const [a, b, unused] = [leaf(1, "a"), leaf(2, "b"), leaf(3, "unused")];
    const seen: { readonly leaf: Tensor; readonly gradient: Promise<Float32Array[]> | null }[] = [];
    const onGradient = (of: Tensor) => void seen.push({ leaf: of, gradient: of.grad && gpu().read(of.grad.storage) });
    const tape = new Tape(gpu(), { grad: true, onGradient });
    weightedSum(tape, [unused], [1]); // no gradient comes here
    const first = weightedSum(tape, [a, b], [2, 3]);
    const second = weightedSum(tape, [first, a, a], [5, 7, 1]);
    tape.backward(second);
    expect(seen.map(({ leaf }) => leaf.name).sort()).toEqual(["a", "b", "unused"]);
    const at = async (name: string) => (await seen.find(({ leaf }) => leaf.name === name)!.gradient)?.[0][0];
    expect(await at("a")).toBe(2 * 5 + 7 + 1);
    expect(await at("b")).toBe(3 * 5);
    expect(await at("unused")).toBeUndefined();
    tape.dispose();
    for (const tensor of [a, b, unused]) {
      tensor.grad?.free();
      tensor.free();
    }
  });
});

describe("GradientBuckets", () => {
  // What is not read stands in the way of its bucket, the last or the first of two, which then begins at the end.
  it.each([0, 2])("takes the mean over ranks, step after step, where no op reads parameter %d", async (unread) => {
    const devices = new Devices();
    const ends = localGroup(2).map(async (processGroup) => {
      const { rank } = processGroup;
      const own = await devices.get(rank);
      const parameters = [1, 2, 3].map((value) => leaf(value, `p${value}`, own));
      const group = new DeviceGroup(own, processGroup);
      const read = parameters.filter((_, i) => i !== unread);
      const buckets = new GradientBuckets(group, parameters, 32);
      expect(buckets.count).toBe(2);
      const means: number[][] = [];
      for (const factor of [1, 10]) {
        const tape = new Tape(own, { grad: true, onGradient: buckets.onGradient });
        tape.backward(weightedSum(tape, read, [factor * (rank + 1), rank * 4]));
        buckets.finish();
        group.settle();
        means.push((await own.read(...read.map((p) => p.grad!.storage))).map(([v]) => v));
        tape.dispose();
        expect(parameters[unread].grad).toBeNull();
        for (const p of parameters) {
          p.grad?.free();
          p.grad = null;
        }
      }
      return means;
    });
    expect(await Promise.all(ends)).toEqual([
      [[1.5, 2], [15, 2]],
      [[1.5, 2], [15, 2]],
    ]); // prettier-ignore
    await devices.close();
  });

  it("refuses buckets without bytes", () => {
    const group = new DeviceGroup(gpu(), localGroup(1)[0]);
    for (const bytes of [0, -1, NaN])
      expect(() => new GradientBuckets(group, [], bytes)).toThrow(/bucketBytes: expected more than 0 bytes/);
  });
});

describe("DeviceGroup", () => {
  it("gathers rows by rank and sums, in the order of recording", async () => {
    const devices = new Devices();
    const ends = localGroup(3).map(async (processGroup) => {
      const { rank } = processGroup;
      const own = await devices.get(rank);
      const group = new DeviceGroup(own, processGroup);
      const [part, all, sum] = [own.alloc(32, "part"), own.alloc(96, "all"), own.alloc(32, "sum")];
      own.write(
        part,
        Float32Array.from({ length: 8 }, (_, i) => 10 * rank + i),
      );
      group.gather(part, all, 2);
      own.write(part, new Float32Array(8).fill(2 ** rank)); // what was gathered is what was there before
      group.sum(part, sum);
      const [gathered, summed] = await own.read(all, sum);
      return [[...gathered], [...summed]];
    });
    const row = (rank: number, first: number) => [0, 1, 2, 3].map((i) => 10 * rank + first + i);
    const want = [[0, 4].flatMap((first) => [0, 1, 2].flatMap((rank) => row(rank, first))), new Array<number>(8).fill(7)]; // prettier-ignore
    expect(await Promise.all(ends)).toEqual([want, want, want]);
    await devices.close();
  });
});
