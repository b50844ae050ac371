import { describe, expect, it } from "vitest";
import { type Derivation, DerivedStorages } from "../../src/gpu/derived.js";
import type { Storage } from "../../src/gpu/pool.js";

/** A pool that only counts, and what is made in it. */
function start() {
  let nextId = 0;
  const live = new Set<Storage>();
  const made: string[] = [];
  const alloc = (bytes: number): Storage => {
    const storage = { id: nextId++, buffer: null as never, bytes };
    live.add(storage);
    return storage;
  };
  const kept: DerivedStorages = new DerivedStorages({
    alloc,
    free: (storage) => {
      expect(live.delete(storage)).toBe(true);
      kept.changed(storage);
    },
  });
  const derivation = (what: string, ...from: Storage[]): Derivation => ({
    ...{ what, from, bytes: 16 },
    make: () => made.push(what),
  });
  const use = (d: Derivation, rehearsing = false): Storage => {
    let used: Storage | undefined;
    kept.use(d, rehearsing, (storage) => (used = storage));
    return used!;
  };
  return { kept, alloc, derivation, use, made, live };
}

describe("storages made from others", () => {
  it("are made once for each of what they are, and of what they are made", () => {
    const { alloc, derivation, use, made } = start();
    const [a, b] = [alloc(16), alloc(16)];
    const first = use(derivation("x", a));
    expect(use(derivation("x", a))).toBe(first);
    expect(new Set([first, use(derivation("y", a)), use(derivation("x", b)), use(derivation("x", a, b))]).size).toBe(4);
    expect(use(derivation("x", { ...a, offset: 8 }))).not.toBe(first);
    expect(made).toEqual(["x", "y", "x", "x", "x"]);
  });

  it("are given back when any of what they are made from changes, and what is made of them too", () => {
    const { kept, alloc, derivation, use, made, live } = start();
    const [a, b, c] = [alloc(16), alloc(16), alloc(16)];
    const both = use(derivation("both", a, b));
    use(derivation("of both", both));
    use(derivation("c", c));
    kept.changed({ ...b, offset: 4 }); // a part of it
    expect(live.size).toBe(4); // a, b, c, and what is made from c
    use(derivation("both", a, b));
    use(derivation("c", c));
    expect(made).toEqual(["both", "of both", "c", "both"]);
    kept.clear();
    expect([...live]).toEqual([a, b, c]);
  });

  it("are not made in a rehearsal, but in the first run after it", () => {
    const { alloc, derivation, use, made } = start();
    const a = alloc(16);
    const d = { ...derivation("x", a) };
    let runs = 0;
    const counted = { ...d, make: () => void runs++ };
    const storage = use(counted, true);
    expect(use(counted, true)).toBe(storage);
    expect(runs).toBe(2); // whose commands are not carried out
    expect(use(counted)).toBe(storage);
    use(counted);
    expect(runs).toBe(3);
    expect(made).toEqual([]);
  });

  it("stay as long as they are used, whatever happens meanwhile", () => {
    const { kept, alloc, derivation, live, made } = start();
    const a = alloc(16);
    kept.use(derivation("x", a), false, (storage) => {
      kept.clear();
      expect(live).toContain(storage);
      kept.changed(a);
      expect(live).toContain(storage);
    });
    expect([...live]).toEqual([a]);
    kept.use(derivation("x", a), false, () => undefined);
    expect(made).toEqual(["x", "x"]);
  });
});
