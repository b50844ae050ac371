/** The process that reads the cases; the campaign starts it, watches it, and starts another one when it ends. */
import type { Holdings, Verdict } from "./case.js";
import { FORMATS } from "./formats.js";
import { holdings, Judge, makeCase } from "./judge.js";

/** What the campaign asks for: cases `first` up to `end`. */
export interface Request {
  readonly format: string;
  readonly seed: number;
  readonly first: number;
  readonly end: number;
  /** After so many cases the process has seen what it keeps; what it holds from then on should not grow. */
  readonly warmUp: number;
}

export type Report =
  { readonly begun: number } | { readonly verdict: Verdict } | { readonly held: Holdings } | { readonly done: true };

const send = (report: Report): Promise<void> =>
  new Promise((resolve, reject) => {
    process.send!(report, undefined, {}, (error) => (error ? reject(error) : resolve()));
  });

async function run({ format: name, seed, first, end, warmUp }: Request): Promise<void> {
  const format = FORMATS.find((f) => f.name === name)!;
  const judge = await Judge.open(format);
  for (let index = first; index < end; index++) {
    if (index - first === warmUp) await send({ held: await holdings(index - first) });
    const input = makeCase(format, seed, index);
    await send({ begun: index });
    await send({ verdict: await judge.judge(index, input) });
  }
  await judge.close();
  await send({ held: await holdings(end - first) });
  await send({ done: true });
}

process.once("message", (request: Request) => {
  void run(request).then(() => process.disconnect());
});
