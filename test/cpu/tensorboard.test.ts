import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PNG } from "pngjs";
import { afterAll, describe, expect, it } from "vitest";
import { FormatError, UserError } from "../../src/errors.js";
import { crc32, crc32c } from "../../src/io/crc.js";
import { EventWriter, maskedCrc32c } from "../../src/io/tensorboard.js";
import { readEvents } from "./eventReader.js";

describe("crc", () => {
  const ascending = Uint8Array.from({ length: 32 }, (_, i) => i);
  it("has the known values", () => {
    const digits = new TextEncoder().encode("123456789");
    expect(crc32(digits)).toBe(0xcbf43926); // the catalogues' check value
    expect(crc32c(digits)).toBe(0xe3069283);
    // RFC 3720, appendix B.4
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(255))).toBe(0x62a8ab43);
    expect(crc32c(ascending)).toBe(0x46dd794e);
    expect(crc32c(ascending.toReversed())).toBe(0x113fdb5c);
    expect(crc32c(new Uint8Array(0))).toBe(0);
  });

  it("is masked as TFRecord does", () => {
    // rotate right by 15, add 0xa282ead8, in 32 bits
    expect(maskedCrc32c(ascending)).toBe(
      Number((((0x46dd794en >> 15n) | (0x46dd794en << 17n)) + 0xa282ead8n) & 0xffffffffn),
    );
  });
});

describe("EventWriter", () => {
  const folder = mkdtempSync(join(tmpdir(), "pconv-events-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  let count = 0;
  const newPath = () => join(folder, `events.out.tfevents.${1700000000 + count++}.host.v2`);
  const read = (path: string) => readEvents(new Uint8Array(readFileSync(path)));

  it("writes scalars, pictures and restarts that decode to what was given", () => {
    const path = newPath();
    const png = new Uint8Array(PNG.sync.write(new PNG({ width: 300, height: 2 })));
    const writer = new EventWriter(path);
    writer.sessionStart(0);
    writer.scalar("loss/total", 0.1, 1, 1700000000.25);
    writer.scalar("é", -Infinity, 2 ** 40 + 127, 0);
    writer.scalar("nan", NaN, 128, 1);
    writer.image("samples", png, 300, 2, 300, 2);
    writer.close();
    writer.close();

    const [version, session, ...events] = read(path);
    expect(version).toMatchObject({ fileVersion: "brain.Event:2", step: 0 });
    expect(version.wallSeconds).toBeGreaterThan(1.7e9);
    expect(session).toMatchObject({ sessionStatus: 1, step: 0 });
    expect(events).toMatchObject([
      { tag: "loss/total", value: Math.fround(0.1), step: 1, wallSeconds: 1700000000.25 },
      { tag: "é", value: -Infinity, step: 2 ** 40 + 127, wallSeconds: 0 },
      { tag: "nan", value: NaN, step: 128, wallSeconds: 1 },
      { tag: "samples", step: 300, wallSeconds: 2, image: { width: 300, height: 2, colorspace: 4, png } },
    ]);
  });

  it("writes the bytes that TensorFlow writes for a scalar", () => {
    const path = newPath();
    const writer = new EventWriter(path);
    const before = readFileSync(path).length;
    writer.scalar("a", 1, 2, 3);
    expect(readFileSync(path).length).toBe(before); // nothing before the flush
    writer.flush();
    writer.close();
    // Event{wall_time: 3, step: 2, summary{value{tag: "a", simple_value: 1}}}
    const event = "09" + "0000000000000840" + "10" + "02" + "2a" + "0a" + "0a" + "08" + "0a0161" + "150000803f";
    expect(
      readFileSync(path)
        .subarray(before + 12, -4)
        .toString("hex"),
    ).toBe(event);
  });

  it("goes on with a log, and drops half a record that a crash left", () => {
    const path = newPath();
    const first = new EventWriter(path);
    first.scalar("a", 1, 1, 1);
    first.scalar("a", 2, 2, 2);
    first.close();
    truncateSync(path, readFileSync(path).length - 3);
    const second = new EventWriter(path);
    second.sessionStart(2);
    second.scalar("a", 3, 2, 3);
    second.close();
    expect(read(path)).toMatchObject([
      { fileVersion: "brain.Event:2" },
      { value: 1, step: 1 },
      { sessionStatus: 1, step: 2 },
      { value: 3, step: 2 },
    ]);
  });

  it("leaves a file alone that is no event log", () => {
    const path = newPath();
    writeFileSync(path, "these are somebody's notes");
    expect(() => new EventWriter(path)).toThrow(FormatError);
    expect(readFileSync(path, "utf8")).toBe("these are somebody's notes");
  });

  it("refuses what it cannot write", () => {
    const missing = join(folder, "missing", "events");
    expect(() => new EventWriter(missing)).toThrow(UserError);
    expect(existsSync(missing)).toBe(false);
    const writer = new EventWriter(newPath());
    expect(() => writer.scalar("a", 1, -1, 0)).toThrow("a step of 0 or more, got -1");
    expect(() => writer.sessionStart(0.5)).toThrow("got 0.5");
    expect(() => writer.image("a", new Uint8Array(40), 1, 1, 0, 0)).toThrow("a PNG of 1x1, got other bytes");
    const png = PNG.sync.write(new PNG({ width: 2, height: 1 }));
    expect(() => writer.image("a", png, 1, 2, 0, 0)).toThrow("a PNG of 1x2, got 2x1");
    writer.close();
  });

  it.skipIf(!existsSync("/dev/full"))("reports a full disk", () => {
    expect(() => new EventWriter("/dev/full")).toThrow(/disk is full/);
  });
});
