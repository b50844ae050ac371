/** Picture files: PNG by its chunks, JPEG by its segments, WebP by its RIFF chunks; and folders of masks. */
import { join } from "node:path";
import { deflateSync, inflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";
import { UserError } from "../../src/errors.js";
import { joinPng, type PngChunk, splitPng } from "../../src/io/pngChunks.js";
import { openPicture, rawToPicture, readPicture, runPipeline } from "../../src/io/imageFile.js";
import { readBytes } from "../../src/io/files.js";
import { MaskFolder } from "../../src/io/maskFolder.js";
import { encodeStored, losslessFormat } from "../../src/io/storedEncode.js";
import { displayedSize, fillStored, viewsOf } from "../../src/io/storedFill.js";
import { readStored } from "../../src/io/storedPicture.js";
import { holeRatio, type Picture } from "../../src/pconv/picture.js";
import { Rng } from "../../src/pconv/rng.js";
import { chance, concat, extremeField, latin1, mutateBytes, mutateList, pick, randomBytes } from "./bytes.js";
import { Broken, type FuzzCase, type FuzzFormat } from "./case.js";

const WIDTH = 23;
const HEIGHT = 17;

/** A picture without large even areas. */
function source(channels: 1 | 3 | 4 = 3, seed = 7): Sharp {
  const noise = randomBytes(WIDTH * HEIGHT * channels, Rng.of(seed));
  for (let i = 0; i < noise.length; i++) noise[i] = noise[i] / 4 + (i % 150);
  return sharp(noise, { raw: { width: WIDTH, height: HEIGHT, channels } });
}

/** Reads a picture as training and as `pconv inpaint` do, and writes the filled one. */
async function readAsAll(folder: string, name: string): Promise<void> {
  const path = join(folder, name);
  // Each reader by itself: what one refuses the other may take, and then has to get through it.
  const attempts = [() => throughTraining(path), () => throughInpainting(path)];
  const results = await Promise.allSettled(attempts.map((attempt) => attempt()));
  const failed = results.filter((r) => r.status === "rejected").map((r) => r.reason as Error);
  const worst = failed.find((error) => !(error instanceof UserError)) ?? failed[0];
  if (worst !== undefined) throw worst;
}

async function throughTraining(path: string): Promise<void> {
  const picture = await readPicture(path);
  const opened = await openPicture(await readBytes(path), path);
  const resized = opened.pipeline.resize({ width: 8, height: 8, fit: "fill" });
  const small = rawToPicture(await runPipeline(resized, path));
  for (const { pixels, width, height } of [picture, small]) {
    if (pixels.length !== 3 * width * height) throw new Broken("a picture has not the pixels of its size");
    if (!pixels.every((v) => v >= 0 && v <= 1)) throw new Broken("a picture has values outside of 0..1");
  }
}

async function throughInpainting(path: string): Promise<void> {
  const stored = await readStored(path);
  const { width, height } = displayedSize(stored);
  if (stored.samples.length !== stored.width * stored.height * stored.channels) {
    throw new Broken("a stored picture has not the samples of its size");
  }
  const values = Uint8Array.from({ length: width * height }, (_, i) => (i % 3 === 0 ? 0 : 1));
  const fills = viewsOf(stored).pictures.map(({ pixels }): Picture => ({ width, height, pixels: pixels.fill(0.5) }));
  await encodeStored(fillStored(stored, { width, height, values }, fills), losslessFormat(stored));
}

let pngs: Buffer[] = [];
const PNG_TYPES = ["IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "iCCP", "eXIf", "pHYs", "tEXt", "zTXt", "iTXt", "acTL", "fcTL", "cHRM", "sRGB", "ABCD", "abcd", "\0\0\0\0", "\x1b[2J"]; // prettier-ignore

export const pngFormat: FuzzFormat = {
  name: "png",
  async prepare() {
    pngs = [
      await source().png().toBuffer(),
      await source(4).png({ progressive: true }).toBuffer(),
      await source(1).toColourspace("b-w").png().toBuffer(),
      await source().png({ palette: true, colours: 16 }).toBuffer(),
      await source().toColourspace("rgb16").png().toBuffer(),
      await source().withMetadata({ density: 300, orientation: 6 }).png().toBuffer(),
      joinPng([pngHeader(9, 5, 1, 0), chunk("tRNS", [0, 1]), chunk("IDAT", deflateSync(Buffer.alloc(15, 0x53))), chunk("IEND", [])]), // prettier-ignore
    ];
  },
  make: (rng) => ({ files: { "case.png": spoiltPng(pick(pngs, rng), rng) } }),
  read: (folder) => readAsAll(folder, "case.png"),
};

const chunk = (type: string, body: Iterable<number>): PngChunk => ({ type, body: Uint8Array.from(body) });
function pngHeader(width: number, height: number, depth: number, type: number, interlace = 0): PngChunk {
  const body = Buffer.alloc(13);
  body.writeUInt32BE(width, 0);
  body.writeUInt32BE(height, 4);
  body.set([depth, type, 0, 0, interlace], 8);
  return { type: "IHDR", body };
}

/** With right checksums, mostly, or nothing would get past them. */
function spoiltPng(original: Buffer, rng: Rng): Uint8Array {
  if (chance(0.2, rng)) return mutateBytes(original, rng, PNG_TYPES.map(latin1), pngs);
  const chunks = mutateList(splitPng(original, "seed"), rng, (c) => spoiltChunk(c, rng));
  const png = joinPng(chunks);
  if (chance(0.1, rng)) return concat(png, randomBytes(rng.integer(1, 40), rng));
  return chance(0.05, rng) ? mutateBytes(png, rng) : png;
}

function spoiltChunk({ type, body }: PngChunk, rng: Rng): PngChunk {
  if (chance(0.2, rng)) return { type: pick(PNG_TYPES, rng), body };
  if (type === "IHDR" && chance(0.9, rng)) {
    const [small, side] = [pick([1, 2, 3, 7, 8, 9, 23, 100], rng), pick([1, 3, 17, 4000, 65536, 2 ** 31], rng)];
    if (chance(0.4, rng)) return pngHeader(small, side, pick([1, 2, 4, 8, 16], rng), pick([0, 2, 3, 4, 6], rng), rng.integer(0, 1)); // prettier-ignore
    const copy = new Uint8Array(body);
    if (copy.length < 13) return { type, body: pngHeader(small, side, 8, 2).body };
    if (chance(0.5, rng)) copy[rng.integer(8, 12)] = pick([0, 1, 2, 3, 4, 6, 8, 16, 255], rng);
    else copy.set(extremeField(rng).slice(0, 4), pick([0, 4], rng));
    return { type, body: copy };
  }
  if (type === "IDAT" && chance(0.8, rng)) {
    let rows: Uint8Array;
    try {
      rows = inflateSync(body);
    } catch {
      return { type, body: mutateBytes(body, rng) }; // spoilt before, or one of several
    }
    const kind = rng.integer(0, 3);
    if (kind === 0) return { type, body: deflateSync(mutateBytes(rows, rng)) };
    if (kind === 1) return { type, body: deflateSync(Buffer.alloc(pick([0, 1, 500, 2 ** 16, 2 ** 22], rng), pick([0, 4, 5, 255], rng))) }; // prettier-ignore
    if (kind === 2) return { type, body: concat(deflateSync(rows), randomBytes(9, rng)) };
    return { type, body: body.subarray(0, rng.integer(0, body.length)) };
  }
  const lengths = [0, 1, 2, 3, 6, 7, 255, 256, 767, 768, 769, 70_000];
  return { type, body: chance(0.4, rng) ? randomBytes(pick(lengths, rng), rng) : mutateBytes(body, rng) };
}

let jpegs: Buffer[] = [];

export const jpegFormat: FuzzFormat = {
  name: "jpeg",
  async prepare() {
    jpegs = [
      await source().jpeg().toBuffer(),
      await source().jpeg({ progressive: true, chromaSubsampling: "4:4:4" }).toBuffer(),
      await source(1).toColourspace("b-w").jpeg().toBuffer(),
      await source().toColourspace("cmyk").jpeg().toBuffer(),
      await source().withMetadata({ orientation: 8, density: 300 }).withIccProfile("p3").jpeg().toBuffer(),
    ];
  },
  make: (rng) => ({ files: { "case.jpg": spoiltJpeg(pick(jpegs, rng), rng) } }),
  read: (folder) => readAsAll(folder, "case.jpg"),
};

const MARKERS = [0xc0, 0xc1, 0xc2, 0xc4, 0xc9, 0xd0, 0xd8, 0xd9, 0xda, 0xdb, 0xdd, 0xe0, 0xe1, 0xe2, 0xee, 0xfe];

/** Segments of a JPEG up to its first scan, each a marker and its body, and what follows. */
function segments(jpeg: Buffer): { parts: { marker: number; body: Uint8Array }[]; rest: Uint8Array } {
  const parts: { marker: number; body: Uint8Array }[] = [];
  let at = 2;
  while (at + 4 <= jpeg.length && jpeg[at] === 0xff && jpeg[at + 1] !== 0xda) {
    const length = jpeg.readUInt16BE(at + 2);
    parts.push({ marker: jpeg[at + 1], body: jpeg.subarray(at + 4, at + 2 + length) });
    at += 2 + length;
  }
  return { parts, rest: jpeg.subarray(at) };
}

function spoiltJpeg(original: Buffer, rng: Rng): Uint8Array {
  if (chance(0.25, rng)) return mutateBytes(original, rng, MARKERS.map((m) => Uint8Array.of(0xff, m)), jpegs); // prettier-ignore
  const { parts, rest } = segments(original);
  // Profiles, EXIF and comments alone: the picture can then mostly be read, and what they say comes to be used.
  const metadataOnly = chance(0.25, rng);
  const spoilt = mutateList(parts, rng, ({ marker, body }) => {
    if (metadataOnly) return { marker, body: marker >= 0xe0 ? mutateBytes(body, rng) : body };
    if (chance(0.2, rng)) return { marker: pick(MARKERS, rng), body };
    const isFrame = marker >= 0xc0 && marker <= 0xc2;
    if (!isFrame || chance(0.3, rng)) return { marker, body: mutateBytes(body, rng) };
    const copy = new Uint8Array(body); // precision, height, width, components with their sampling
    if (chance(0.5, rng)) copy.set(extremeField(rng).subarray(0, 2), pick([1, 3], rng));
    else copy[rng.integer(0, copy.length - 1)] = pick([0, 1, 2, 3, 4, 0x11, 0x14, 0x41, 0x44, 0xff], rng);
    return { marker, body: copy };
  });
  const written = spoilt.map(({ marker, body }) => {
    const length = (body.length + 2) % 65536; // the body may have become longer than its field can say
    return concat(Uint8Array.of(0xff, marker, length >> 8, length & 255), body);
  });
  return concat(
    Uint8Array.of(0xff, 0xd8),
    ...written,
    !metadataOnly && chance(0.3, rng) ? mutateBytes(rest, rng) : rest,
  );
}

let webps: Buffer[] = [];
const WEBP_TYPES = ["VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "ICCP", "EXIF", "XMP ", "JUNK"];

export const webpFormat: FuzzFormat = {
  name: "webp",
  async prepare() {
    webps = [
      await source().webp().toBuffer(),
      await source(4).webp({ quality: 50 }).toBuffer(),
      await source(4).webp({ lossless: true }).toBuffer(),
      await source().withMetadata({ orientation: 5 }).withIccProfile("p3").webp({ lossless: true }).toBuffer(),
      await sharp(await source().webp().toBuffer(), { animated: true })
        .webp({ loop: 0 })
        .toBuffer(),
    ];
  },
  make: (rng) => ({ files: { "case.webp": spoiltWebp(pick(webps, rng), rng) } }),
  read: (folder) => readAsAll(folder, "case.webp"),
};

function spoiltWebp(original: Buffer, rng: Rng): Uint8Array {
  if (chance(0.3, rng)) return mutateBytes(original, rng, WEBP_TYPES.map(latin1), webps);
  const chunks: { type: string; body: Uint8Array }[] = [];
  for (let at = 12; at + 8 <= original.length;) {
    const length = original.readUInt32LE(at + 4);
    chunks.push({ type: original.toString("latin1", at, at + 4), body: original.subarray(at + 8, at + 8 + length) });
    at += 8 + length + (length % 2);
  }
  const metadataOnly = chance(0.25, rng);
  const spoilt = mutateList(chunks, rng, ({ type, body }) => {
    if (metadataOnly) return { type, body: /^VP8/.test(type) ? body : mutateBytes(body, rng) };
    return chance(0.2, rng) ? { type: pick(WEBP_TYPES, rng), body } : { type, body: mutateBytes(body, rng) };
  });
  const u32 = (value: number) => Uint8Array.from([0, 8, 16, 24], (shift) => value >>> shift);
  const content = concat(
    latin1("WEBP"),
    ...spoilt.map(({ type, body }) => concat(latin1(type), u32(body.length), body, new Uint8Array(body.length % 2))),
  );
  return concat(latin1("RIFF"), u32(chance(0.9, rng) ? content.length : rng.integer(0, 999)), content);
}

let masks: { name: string; bytes: Buffer }[] = [];
const MASK_NAMES = ["a.png", "b.jpg", "c.webp", "d.PNG", "-rf.png", "\u001b[2J.png", "e\nhelp: x.png", ".hidden.png", "no picture.txt", "deep/er/f.png", "deep/g.jpeg", " .png", "\u202egnp.png", "ü.png"]; // prettier-ignore

export const masksFormat: FuzzFormat = {
  name: "masks",
  async prepare() {
    const holes = (w: number, h: number) =>
      sharp(
        Uint8Array.from({ length: w * h }, (_, i) => (i % w < w / 3 ? 255 : 0)),
        {
          raw: { width: w, height: h, channels: 1 },
        },
      );
    const blank = (level: number) => sharp({ create: { width: 9, height: 9, channels: 3, background: { r: level, g: level, b: level } } }); // prettier-ignore
    masks = [
      { name: ".png", bytes: await holes(20, 12).png().toBuffer() },
      { name: ".jpg", bytes: await holes(16, 16).jpeg().toBuffer() },
      { name: ".webp", bytes: await holes(12, 20).webp({ lossless: true }).toBuffer() },
      { name: ".png", bytes: await holes(1, 300).png().toBuffer() },
      { name: ".png", bytes: await holes(300, 1).png({ palette: true }).toBuffer() },
      { name: ".png", bytes: await blank(0).png().toBuffer() },
      { name: ".png", bytes: await blank(255).png().toBuffer() },
    ];
  },
  make(rng): FuzzCase {
    const files: Record<string, Uint8Array> = {};
    const links: Record<string, string> = {};
    for (let i = rng.integer(0, 4); i > 0; i--) {
      const { bytes } = pick(masks, rng);
      const spoil = chance(0.5, rng);
      files[pick(MASK_NAMES, rng)] = spoil ? (chance(0.5, rng) && bytes[0] === 0x89 ? spoiltPng(bytes, rng) : mutateBytes(bytes, rng)) : bytes; // prettier-ignore
    }
    const targets = [".", "..", "a.png", "deep", "deep/er", "nowhere", "/dev/null", "l1", "deep/l2"];
    for (const name of ["l1", "l2", "deep/l2", "deep/er/l3", "link.png"]) {
      if (chance(0.15, rng)) links[name] = pick(targets, rng);
    }
    return { files, links };
  },
  async read(folder, input) {
    // Links may lead out of the case's folder, but not to what others have there.
    for (const augment of [true, false]) {
      const options = { holes: "white", augment, onWarning: checkWarning } as const;
      const found = await MaskFolder.open(folder, options);
      const most = Object.keys(input.files).length + Object.keys(input.links ?? {}).length;
      if (found.length > most) throw new Broken(`${found.length} masks in a folder of ${most} files and links`);
      for (let index = 0; index < 2; index++) {
        const mask = await found.sample(1, index, 16);
        const ratio = holeRatio(mask);
        if (mask.values.length !== 256 || ratio <= 0 || ratio >= 1) throw new Broken(`a mask with a hole of ${ratio}`);
      }
    }
  },
};

function checkWarning(message: string): void {
  if (/\p{Cc}/u.test(message)) throw new Broken(`a warning with control characters: ${JSON.stringify(message)}`);
}
