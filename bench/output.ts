/** Where results go: a table, or JSON lines; both keep the measurements for the picture. */
import type { Measurement } from "./measure.js";
import { tableRow } from "./report.js";

export class Output {
  readonly measured: Measurement[] = [];

  /** @param print prints one line on stdout */
  constructor(
    private readonly json: boolean,
    private readonly print: (line: string) => void,
  ) {}

  /** One measurement, in the table's columns or in its own words. */
  line(m: Measurement, words: (m: Measurement) => string = tableRow): void {
    this.measured.push(m);
    this.print(this.json ? JSON.stringify(m) : words(m));
  }

  /** Lines for people: headings and explanations. */
  words(...lines: readonly string[]): void {
    if (!this.json) for (const line of lines) this.print(line);
  }

  /** What follows from several measurements: an object for programs, words for people. */
  summary(object: Readonly<Record<string, unknown>>, ...lines: readonly string[]): void {
    if (this.json) this.print(JSON.stringify(object));
    else this.words(...lines);
  }
}
